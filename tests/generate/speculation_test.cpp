// Drafted and checked text is the same, to the last bit of the logits, whatever is guessed.
#include "generate/speculation.h"

#include <gtest/gtest.h>

#include <random>

#include "generate/micro.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

const std::string kRepetition = "One two three four five. One two three four five. One two three";

/// Guesses that are right for a while and then wrong, by chance.
class ErringDrafter final : public Drafter {
 public:
  ErringDrafter(std::vector<int32_t> truth, unsigned seed) : truth_(std::move(truth)), random_(seed) {}

  std::vector<int32_t> propose(std::span<const int32_t> history, int64_t most) override {
    std::vector<int32_t> draft;
    const int64_t count = std::min<int64_t>(most, static_cast<int64_t>(random_() % 8));
    for (int64_t i = 0; i < count && history.size() + draft.size() < truth_.size(); ++i) {
      const int32_t right = truth_[history.size() + draft.size()];
      draft.push_back(random_() % 4 == 0 ? (right + 1) % 512 : right);
    }
    return draft;
  }

 private:
  std::vector<int32_t> truth_;
  std::mt19937 random_;
};

int32_t most_likely(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

struct Text {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // of all of them
};

Text write(LanguageModel& model, const KvCacheOptions& kv, std::unique_ptr<Drafter> drafter, int count) {
  KvCache cache = model.make_cache(kv);
  Text text;
  for (int i = 0; i < 40; ++i) text.tokens.push_back(7 * i % 300 + 5);
  Speculation speculation(cache.state(), std::move(drafter), 8);
  for (int i = 0; i < count; ++i) {
    const std::span<const float> logits = speculation.next(text.tokens, count - i - 1);
    text.logits.insert(text.logits.end(), logits.begin(), logits.end());
    text.tokens.push_back(most_likely(logits));
  }
  speculation.finish(text.tokens);
  EXPECT_EQ(cache.tokens(), std::vector<int32_t>(text.tokens.begin(), text.tokens.end() - 1));
  return text;
}

class SpeculationOf : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(SpeculationOf, RightAndWrongGuesses) {
  const auto [name, bits] = GetParam();
  KvCacheOptions kv;
  kv.bits = bits;
  LanguageModel model = load_micro(kTestData / "micro" / name);
  constexpr int kTokens = 150;  // past blocks of 64 and windows of 16
  const Text expected = write(model, kv, nullptr, kTokens);
  for (unsigned seed = 0; seed < 3; ++seed) {
    const Text drafted = write(model, kv, std::make_unique<ErringDrafter>(expected.tokens, seed), kTokens);
    EXPECT_EQ(drafted.tokens, expected.tokens) << seed;
    EXPECT_TRUE(drafted.logits == expected.logits) << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Caches, SpeculationOf,
                         testing::Values(std::pair("llama", "fp16"), std::pair("llama", "k4v3"),
                                         std::pair("gpt_oss", "fp16"), std::pair("gpt_oss", "k4v3"),
                                         std::pair("qwen3_5", "fp16"), std::pair("qwen3_5", "3")),
                         [](const auto& test) { return std::string(test.param.first) + "_" + test.param.second; });

// A cache that is compressed after so many tokens is so at the same one.
TEST(Speculation, CompressedLater) {
  LanguageModel model = load_micro();
  KvCacheOptions kv;
  kv.bits = "3";
  kv.start = 100;
  const Text expected = write(model, kv, nullptr, 120);
  const Text drafted = write(model, kv, std::make_unique<ErringDrafter>(expected.tokens, 1), 120);
  EXPECT_TRUE(drafted.logits == expected.logits);
}

GenerateOptions options_of(float temperature, const std::string& draft) {
  GenerateOptions options;
  options.max_tokens = 60;
  options.temperature = temperature;
  options.seed = 5;
  options.draft = draft;
  return options;
}

TEST(Speculation, TheTextIsTheSame) {
  LanguageModel model = load_micro(), other = load_micro();
  for (const float temperature : {0.0F, 0.2F, 1.0F}) {
    const GenerateResult plain = model.generate(kRepetition, options_of(temperature, ""));
    EXPECT_EQ(plain.drafted_tokens, 0);
    const GenerateResult ngram = model.generate(kRepetition, options_of(temperature, "ngram"));
    EXPECT_EQ(ngram.tokens, plain.tokens);
    GenerateOptions options = options_of(temperature, "");
    options.draft_model = &other;
    const GenerateResult drafted = model.generate(kRepetition, options);
    EXPECT_EQ(drafted.tokens, plain.tokens);
    EXPECT_EQ(drafted.text, plain.text);
    EXPECT_GT(drafted.drafted_tokens, 0);
    EXPECT_LE(drafted.accepted_tokens, drafted.drafted_tokens);
    // The same model at temperature 0 guesses right, but perhaps beyond the end of the text.
    if (temperature == 0) {
      EXPECT_GE(drafted.accepted_tokens + options.draft_max, drafted.drafted_tokens);
    }
  }
}

TEST(Speculation, WhatFollowedBefore) {
  const auto drafter = make_ngram_drafter();
  const std::vector<int32_t> text = {1, 2, 3, 4, 5, 9, 2, 3};
  EXPECT_EQ(drafter->propose(text, 3), (std::vector<int32_t>{4, 5, 9}));
  EXPECT_TRUE(drafter->propose(std::span(text).first(6), 3).empty());
  const std::vector<int32_t> loop = {7, 1, 2, 1, 2, 1, 2};
  EXPECT_EQ(drafter->propose(loop, 5), (std::vector<int32_t>{1, 2, 1, 2, 1}));
  // The longer match, though another is newer.
  const std::vector<int32_t> longer = {1, 2, 3, 4, 8, 2, 3, 5, 1, 2, 3};
  EXPECT_EQ(drafter->propose(longer, 1), (std::vector<int32_t>{4}));
}

TEST(Speculation, CacheGoesOn) {
  LanguageModel model = load_micro();
  KvCache plain = model.make_cache(), drafted = model.make_cache();
  GenerateOptions options = options_of(0, "");
  options.cache = &plain;
  model.generate(kRepetition, options);
  options.draft = "ngram";
  options.cache = &drafted;
  model.generate(kRepetition, options);
  EXPECT_EQ(drafted.tokens(), plain.tokens());
  EXPECT_EQ(model.forward(drafted, {5}), model.forward(plain, {5}));
}

TEST(Speculation, WrongOptions) {
  LanguageModel model = load_micro();
  EXPECT_HAS(error_of([&] { model.generate(kRepetition, options_of(0, "bigram")); }), "--draft bigram: use ngram");
  GenerateOptions options = options_of(0, "ngram");
  options.draft_max = 0;
  EXPECT_HAS(error_of([&] { model.generate(kRepetition, options); }), "--draft-max 0: must be 1 to 64");
  options.draft_max = 8;
  LanguageModel other = load_micro();
  options.draft_model = &other;
  EXPECT_HAS(error_of([&] { model.generate(kRepetition, options); }), "--draft and --draft-model: give one of both");
  options.draft.clear();
  options.draft_model = &model;
  EXPECT_HAS(error_of([&] { model.generate(kRepetition, options); }), "cannot draft for itself");
}

}  // namespace
}  // namespace turboquant
