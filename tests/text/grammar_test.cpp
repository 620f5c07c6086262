#include "text/grammar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "io/files.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

const std::filesystem::path kMicro = std::filesystem::path(TURBOQUANT_TEST_DATA) / "micro";

struct Words {
  Tokenizer tokenizer;
  std::vector<int32_t> ends;
  int64_t size;  // more than there are tokens, as models have it
  GrammarVocabulary vocabulary;

  explicit Words(const std::string& model)
      : tokenizer(read_text(kMicro / model / "tokenizer.json"), model),
        ends{0},
        size(tokenizer.vocab_size() + 7),
        vocabulary(tokenizer, size, ends) {}
};

// Writes at random, as a model at temperature 1 that knows nothing: the end or `limit` tokens.
std::string write(const Words& words, Grammar& grammar, std::mt19937_64& random, int limit) {
  std::vector<int32_t> text;
  std::exponential_distribution<float> noise;
  while (!grammar.finished()) {
    std::vector<float> logits(static_cast<size_t>(words.size));
    for (float& logit : logits) logit = noise(random);
    grammar.mask(logits);
    const auto best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    EXPECT_TRUE(std::isfinite(logits[static_cast<size_t>(best)]));
    if (best == words.ends[0]) break;
    grammar.accept(best);
    text.push_back(best);
    if (static_cast<int>(text.size()) >= limit) {
      ADD_FAILURE() << "no end: " << words.tokenizer.decode(text);
      break;
    }
  }
  std::string bytes;
  for (const int32_t token : text) bytes += words.tokenizer.token_bytes(token);
  return bytes;
}

class GrammarOfModel : public testing::TestWithParam<const char*> {};

TEST_P(GrammarOfModel, EveryTextIsValid) {
  const Words words(GetParam());
  std::mt19937_64 random(7);
  const char* schema = R"({"type": "object", "properties": {
      "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
      "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3}, "ok": {"type": "boolean"}},
      "required": ["name", "age", "tags", "ok"], "additionalProperties": false})";
  for (int i = 0; i < 20; ++i) {
    Grammar grammar(words.vocabulary, Grammar::Kind::json_schema, schema);
    const std::string text = write(words, grammar, random, 400);
    const auto value = nlohmann::json::parse(text, nullptr, false);
    ASSERT_TRUE(value.is_object()) << text;
    EXPECT_EQ(value.size(), 4U) << text;
    EXPECT_TRUE(value["name"].is_string() && value["ok"].is_boolean()) << text;
    EXPECT_LE(value["age"].get<int64_t>(), 150) << text;
    EXPECT_LE(value["tags"].size(), 3U) << text;
  }
}

TEST_P(GrammarOfModel, RegularExpressionsAreOfTheWholeText) {
  const Words words(GetParam());
  std::mt19937_64 random(7);
  for (int i = 0; i < 10; ++i) {
    Grammar grammar(words.vocabulary, Grammar::Kind::regex, "[0-9]{3}-[a-f]{2}");
    const std::string text = write(words, grammar, random, 20);
    EXPECT_EQ(text.size(), 6U);
    EXPECT_EQ(text[3], '-');
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GrammarOfModel, testing::Values("llama", "mistral"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Grammar, TheEndComesOnlyWhereTheTextMayEnd) {
  const Words words("llama");
  Grammar grammar(words.vocabulary, Grammar::Kind::regex, "a+");
  std::vector<float> logits(static_cast<size_t>(words.size), 1);
  grammar.mask(logits);
  EXPECT_EQ(logits[0], -INFINITY);
  const std::vector<int32_t> a = words.tokenizer.encode("a", false);
  ASSERT_EQ(a.size(), 1U);
  grammar.accept(a[0]);
  std::fill(logits.begin(), logits.end(), 1.0F);
  grammar.mask(logits);
  EXPECT_EQ(logits[0], 1);
  EXPECT_EQ(logits[static_cast<size_t>(a[0])], 1);
  EXPECT_FALSE(grammar.finished());
}

TEST(Grammar, WhatCannotBeReadIsAnError) {
  const Words words("llama");
  EXPECT_THROW(Grammar(words.vocabulary, Grammar::Kind::json_schema, "{"), Error);
  EXPECT_THROW(Grammar(words.vocabulary, Grammar::Kind::json_schema, R"({"type": "planet"})"), Error);
  EXPECT_THROW(Grammar(words.vocabulary, Grammar::Kind::regex, "a("), Error);
  Grammar grammar(words.vocabulary, Grammar::Kind::regex, "abc");
  std::vector<float> wrong(3);
  EXPECT_THROW(grammar.mask(wrong), Error);
  const std::vector<int32_t> x = words.tokenizer.encode("x", false);
  EXPECT_THROW(grammar.accept(x[0]), Error);
}

}  // namespace
}  // namespace turboquant
