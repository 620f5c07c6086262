// Passkey retrieval: where the key stands, how long the prompts are, what an answer is worth, and runs of the micro
// model, which finds nothing.
#include "generate/needle.h"

#include <gtest/gtest.h>

#include <set>

#include "generate/micro.h"
#include "generate/state.h"
#include "io/error_of.h"
#include "turboquant/evaluate.h"

namespace turboquant {
namespace {

TEST(NeedleText, HidesTheKeyBehindSoManySentences) {
  const std::string key = "12345";
  const std::string none = needle_text(0, 0, key), first = needle_text(30, 0, key), last = needle_text(30, 30, key),
                    middle = needle_text(30, 15, key);
  for (const std::string& text : {none, first, middle, last}) {
    const size_t at = text.find(key);
    ASSERT_NE(at, text.npos);
    EXPECT_EQ(text.find(key, text.find(key, at + 1) + 1), text.npos) << "twice, and not in the question";
    EXPECT_TRUE(text.ends_with("?"));
  }
  EXPECT_EQ(first.size(), last.size());
  EXPECT_LT(first.find(key), none.size());
  EXPECT_GT(last.find(key), last.size() - none.size());
  const double share = static_cast<double>(middle.find(key)) / static_cast<double>(middle.size());
  EXPECT_NEAR(share, 0.5, 0.08);
}

TEST(NeedlePrompt, IsAsLongAsItMayBe) {
  LanguageModel model = load_micro();
  const EncodeNeedle encode = [&](const std::string& text) { return model.encode(text); };
  size_t sentence = 0;  // tokens of the longest
  for (int64_t n = 1; n <= 6; ++n)
    sentence =
        std::max(sentence, encode(needle_text(n, 0, "54321")).size() - encode(needle_text(n - 1, 0, "54321")).size());
  for (const int64_t tokens : {400, 777, 1500})
    for (const int position : {0, 25, 50, 100}) {
      const std::vector<int32_t> prompt = needle_prompt(encode, tokens, position, "54321");
      EXPECT_LE(prompt.size(), static_cast<size_t>(tokens));
      EXPECT_GT(prompt.size() + 2 * sentence, static_cast<size_t>(tokens)) << position;
      // The key is where it should be, up to what stands around the sentences.
      const std::string text = model.decode(prompt);
      const double share = static_cast<double>(text.find("54321")) / static_cast<double>(text.size());
      EXPECT_NEAR(share, position / 100.0, 250.0 / static_cast<double>(text.size())) << tokens << " " << position;
    }
  EXPECT_TRUE(needle_prompt(encode, 20, 50, "54321").empty());
}

TEST(NeedleKeys, AreRandomAndTheSameForOneSeed) {
  const std::vector<std::string> keys = needle_keys(7, 100);
  EXPECT_EQ(keys, needle_keys(7, 100));
  EXPECT_NE(keys, needle_keys(8, 100));
  EXPECT_GT(std::set<std::string>(keys.begin(), keys.end()).size(), 95u);
  for (const std::string& key : keys) EXPECT_EQ(key.size(), kNeedleDigits);
}

TEST(RightDigits, AreCountedFromTheLeft) {
  EXPECT_EQ(right_digits(" 12345.", "12345"), 5u);
  EXPECT_EQ(right_digits(": 12399", "12345"), 3u);
  EXPECT_EQ(right_digits("12", "12345"), 2u);
  EXPECT_EQ(right_digits(" 1 2345", "12345"), 1u);
  EXPECT_EQ(right_digits("92345", "12345"), 0u);
  EXPECT_EQ(right_digits("", "12345"), 0u);
  EXPECT_EQ(right_digits("no number", "12345"), 0u);
}

NeedleOptions options_of(std::vector<int64_t> lengths) {
  NeedleOptions options;
  options.model = kMicro.string();
  options.lengths = std::move(lengths);
  options.positions = {0, 100};
  options.kv_bits = {"k4v3"};
  options.trials = 1;
  options.threads = 2;
  return options;
}

TEST(FindNeedles, AnswersOfEachCacheLengthAndPosition) {
  const std::vector<NeedleResult> results = find_needles(options_of({300, 600}));
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].kv, "fp16");
  EXPECT_EQ(results[1].kv, "k4v3");
  for (const NeedleResult& result : results) {
    ASSERT_EQ(result.cells.size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
      const NeedleCell& cell = result.cells[i];
      EXPECT_EQ(cell.length, i < 2 ? 300 : 600);
      EXPECT_EQ(cell.position, i % 2 == 0 ? 0 : 100);
      EXPECT_LE(cell.prompt_tokens, cell.length);
      EXPECT_GT(cell.prompt_tokens, cell.length - 60);
      EXPECT_EQ(cell.keys, 0) << "random weights know no keys";
      EXPECT_LE(cell.digits, 0.4);
    }
  }
}

TEST(FindNeedles, UsesTheChatTemplate) {
  MicroCopy micro;
  micro.write("chat_template.jinja", "{% for m in messages %}Q {{ m.content[:20] }} A {% endfor %}");
  NeedleOptions options = options_of({300});
  options.model = micro.path().string();
  const std::vector<NeedleResult> cut = find_needles(options);
  EXPECT_LT(cut[0].cells[0].prompt_tokens, 60) << "of any text, only the template's 20 characters are left";
  options.raw = true;
  EXPECT_GT(find_needles(options)[0].cells[0].prompt_tokens, 240);
}

TEST(FindNeedles, RefusesWhatCannotBe) {
  const auto message_with = [](const std::function<void(NeedleOptions&)>& change) {
    NeedleOptions options = options_of({300});
    change(options);
    return error_of([&] { find_needles(options); });
  };
  EXPECT_HAS(message_with([](NeedleOptions& o) { o.lengths = {9000}; }), "context is 4096");
  EXPECT_HAS(message_with([](NeedleOptions& o) { o.lengths = {40}; }), "too short");
  EXPECT_HAS(message_with([](NeedleOptions& o) { o.positions = {101}; }), "101");
  EXPECT_HAS(message_with([](NeedleOptions& o) { o.positions = {}; }), "needle-positions");
  EXPECT_HAS(message_with([](NeedleOptions& o) { o.trials = 0; }), "needle-trials 0");
  EXPECT_HAS(message_with([](NeedleOptions& o) { o.kv_bits = {"5"}; }), "kv-bits 5");
}

}  // namespace
}  // namespace turboquant
