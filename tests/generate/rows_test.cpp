// Logits of several tokens, prompts of tokens, what a model says of its tokens, and stopping from outside.
#include <gtest/gtest.h>

#include <algorithm>

#include "generate/micro.h"
#include "io/error_of.h"
#include "turboquant/interrupt.h"
#include "turboquant/language_model.h"

namespace turboquant {
namespace {

std::vector<int32_t> some_tokens(int count) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(5 + i * i % 300);
  return tokens;
}

std::vector<float> row(const std::vector<float>& rows, size_t index) {
  return {rows.begin() + static_cast<std::ptrdiff_t>(index * 512),
          rows.begin() + static_cast<std::ptrdiff_t>(index * 512 + 512)};
}

TEST(Rows, AreTheLogitsBehindEachToken) {
  LanguageModel model = load_micro();
  const std::vector<int32_t> tokens = some_tokens(1100);
  for (const int64_t start : {0, 300, 512}) {
    KvCacheOptions options;
    if (start > 0) options = {.bits = "3", .start = start};
    KvCache cache = model.make_cache(options), step = model.make_cache(options);
    const std::vector<float> rows = model.forward(cache, tokens, 1100);
    ASSERT_EQ(rows.size(), 1100u * 512u);
    EXPECT_EQ(cache.tokens(), tokens);
    size_t begin = 0;
    for (const size_t at : {0, 299, 300, 511, 512, 1099}) {
      const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
      EXPECT_EQ(row(rows, at),
                model.forward(step, std::vector<int32_t>(first, tokens.begin() + static_cast<std::ptrdiff_t>(at + 1))))
          << at << " of a cache that is compressed at " << start;
      begin = at + 1;
    }
    KvCache last = model.make_cache(options);
    const std::vector<float> few = model.forward(last, tokens, 3);
    EXPECT_EQ(row(few, 0), row(rows, 1097));
    EXPECT_EQ(row(few, 2), row(rows, 1099));
  }
}

TEST(Rows, WhatIsRefused) {
  LanguageModel model = load_micro();
  KvCache cache = model.make_cache();
  const std::vector<int32_t> tokens = some_tokens(5), too_many = some_tokens(4097);
  for (const int64_t rows : {0, 6}) EXPECT_HAS(error_of([&] { model.forward(cache, tokens, rows); }), "must be 1 to 5");
  EXPECT_HAS(error_of([&] { model.forward(cache, std::span<const int32_t>(), 1); }), "no tokens");
  EXPECT_HAS(error_of([&] { model.forward(cache, too_many, 1); }), "longer than the model's context of 4096");
  EXPECT_TRUE(cache.tokens().empty());
}

TEST(TokenPrompts, AreReadAsTheyAre) {
  LanguageModel model = load_micro();
  GenerateOptions options;
  options.temperature = 0;
  options.max_tokens = 10;
  const std::vector<int32_t> tokens = model.encode(kPrompt);
  EXPECT_EQ(model.generate(tokens, options).tokens, model.generate(kPrompt, options).tokens);
  EXPECT_HAS(error_of([&] { model.generate(std::vector<int32_t>(), options); }), "the prompt has no tokens");
}

TEST(Tokens, ThatBeginAndEnd) {
  MicroCopy copy;
  EXPECT_EQ(load_micro(copy.path()).begin_token(), 0);
  EXPECT_EQ(load_micro(copy.path()).end_tokens(), std::vector<int32_t>{0});
  copy.change("config.json", [](nlohmann::json& config) {
    config.erase("bos_token_id");
    config["eos_token_id"] = {7, 3};
  });
  EXPECT_EQ(load_micro(copy.path()).begin_token(), std::nullopt);
  EXPECT_EQ(load_micro(copy.path()).end_tokens(), (std::vector<int32_t>{3, 7}));
}

TEST(Chat, IsRenderedFromJson) {
  MicroCopy copy;
  EXPECT_HAS(error_of([&] { load_micro(copy.path()).apply_chat_template("[]"); }), "no chat template");
  const std::string source =
      "{% for m in messages %}{{ m.role }}: {{ m.content }}; {% endfor %}"
      "{% if add_generation_prompt %}assistant: {% endif %}";
  copy.write("chat_template.jinja", source);
  const LanguageModel model = load_micro(copy.path());
  EXPECT_EQ(model.chat_template(), source);
  const std::string messages = R"([{"role": "user", "content": "hi"}])";
  EXPECT_EQ(model.apply_chat_template(messages), "user: hi; assistant: ");
  EXPECT_EQ(model.apply_chat_template(messages, false), "user: hi; ");
}

TEST(StopWhen, EndsWhatRuns) {
  LanguageModel model = load_micro();
  GenerateOptions options;
  options.max_tokens = 1000;
  options.temperature = 0;
  int asked = 0;
  {
    const StopWhen stop([&] { return ++asked > 20; });
    const GenerateResult result = model.generate(kPrompt, options);
    EXPECT_EQ(result.finish_reason, "cancelled");
    EXPECT_LE(result.tokens.size(), 20u);
    EXPECT_GE(result.tokens.size(), 10u);
    KvCache cache = model.make_cache();
    EXPECT_THROW(model.forward(cache, some_tokens(10)), Interrupted);  // it still asks to stop
    {
      const StopWhen inner([] { return false; });
      EXPECT_NO_THROW(model.forward(cache, some_tokens(10)));
    }
    EXPECT_THROW(model.forward(cache, some_tokens(10)), Interrupted);
  }
  options.max_tokens = 30;
  EXPECT_EQ(model.generate(kPrompt, options).finish_reason, "length");
}

TEST(StopWhen, ItsOwnErrorComesOut) {
  LanguageModel model = load_micro();
  const StopWhen stop([]() -> bool { throw Error("mine"); });
  EXPECT_HAS(error_of([&] { model.generate(kPrompt); }), "mine");
}

// What was read before the interruption is in the list of tokens, or forgotten.
TEST(StopWhen, ACacheGoesOnAfterwards) {
  for (const char* name : {"llama", "qwen3_5_hub"}) {
    LanguageModel model = load_micro(kTestData / "micro" / name);
    KvCache cache = model.make_cache(), other = model.make_cache();
    const std::vector<int32_t> tokens = some_tokens(1500), more = some_tokens(40);
    model.forward(cache, more);
    int asked = 0;
    {
      const StopWhen stop([&] { return ++asked == 3; });
      EXPECT_THROW(model.forward(cache, tokens), Interrupted);
    }
    std::vector<int32_t> read = cache.tokens(), whole = more;
    whole.insert(whole.end(), tokens.begin(), tokens.end());
    EXPECT_LT(read.size(), whole.size()) << name;
    EXPECT_TRUE(std::equal(read.begin(), read.end(), whole.begin())) << name;
    read.insert(read.end(), tokens.begin(), tokens.begin() + 100);
    EXPECT_EQ(model.forward(cache, std::vector<int32_t>(tokens.begin(), tokens.begin() + 100)),
              model.forward(other, read))
        << name;
  }
}

}  // namespace
}  // namespace turboquant
