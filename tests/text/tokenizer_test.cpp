#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "fixtures.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

using Ids = std::vector<int32_t>;

const Tokenizer& smollm2() {
  static const Tokenizer tokenizer = golden_tokenizer("smollm2");
  return tokenizer;
}

#define EXPECT_ERROR(statement, part)                                       \
  do {                                                                      \
    const std::string message = error_of([&] { statement; });               \
    EXPECT_NE(message.find(part), std::string::npos) << "got: " << message; \
  } while (false)

// All pieces together; every piece by itself must be whole characters.
std::string streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamingDetokenizer stream(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = stream.add(id);
    EXPECT_TRUE(is_utf8(piece));
    text += piece;
  }
  const std::string rest = stream.finish();
  EXPECT_TRUE(is_utf8(rest));
  return text + rest;
}

class TokenizerGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, EncodesAndDecodesAsPython) {
  const Tokenizer tokenizer = golden_tokenizer(GetParam());
  const auto& texts = tokenizer_golden().at(GetParam()).at("texts");
  ASSERT_GE(texts.size(), std::string(GetParam()) == "smollm2" ? 200u : 10u);
  for (const auto& entry : texts) {
    const std::string text = entry["text"];
    EXPECT_EQ(tokenizer.encode(text, false), entry["ids"].get<Ids>()) << text;
    const Ids ids = tokenizer.encode(text, true);
    EXPECT_EQ(ids, entry["ids_special"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer.decode(ids, false), entry["decoded"].get<std::string>()) << text;
    EXPECT_EQ(tokenizer.decode(ids, true), entry["decoded_skip"].get<std::string>()) << text;
    EXPECT_EQ(streamed(tokenizer, ids, false), entry["decoded"].get<std::string>()) << text;
    EXPECT_EQ(streamed(tokenizer, ids, true), entry["decoded_skip"].get<std::string>()) << text;
  }
}

// Ids that no text gives: characters broken off, wrong bytes, special tokens anywhere.
TEST_P(TokenizerGolden, DecodesRandomIdsAsPython) {
  const Tokenizer tokenizer = golden_tokenizer(GetParam());
  const auto& sequences = tokenizer_golden().at(GetParam()).at("random");
  ASSERT_GE(sequences.size(), 40u);
  for (const auto& entry : sequences) {
    const Ids ids = entry["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.decode(ids, false), entry["decoded"].get<std::string>()) << entry["ids"];
    EXPECT_EQ(tokenizer.decode(ids, true), entry["decoded_skip"].get<std::string>()) << entry["ids"];
    EXPECT_EQ(streamed(tokenizer, ids, false), entry["decoded"].get<std::string>()) << entry["ids"];
    EXPECT_EQ(streamed(tokenizer, ids, true), entry["decoded_skip"].get<std::string>()) << entry["ids"];
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden,
                         ::testing::Values("smollm2", "fallback", "metaspace", "wordpiece", "none"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Tokenizer, Vocabulary) {
  EXPECT_EQ(smollm2().vocab_size(), 49152);
  EXPECT_EQ(smollm2().token_to_id("<|im_end|>"), 2);
  EXPECT_EQ(smollm2().id_to_token(2), "<|im_end|>");
  EXPECT_EQ(smollm2().token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(smollm2().id_to_token(49152), std::nullopt);
  EXPECT_EQ(smollm2().id_to_token(-1), std::nullopt);
  EXPECT_EQ(smollm2().decode(Ids{}), "");
  EXPECT_EQ(smollm2().decode(Ids{49152, 2147483647}, false), "");  // as the Python package
}

// A model without its type is read by other code (the library's, src/rust/src/bpe.rs) with the same result.
TEST(Tokenizer, ReadsModelsInEitherWay) {
  std::string json = read_fixture("smollm2_tokenizer.json");
  const std::string type = R"("type":"BPE",)";
  ASSERT_NE(json.find(type), std::string::npos);
  json.erase(json.find(type), type.size());
  const Tokenizer tokenizer(json, "untyped");
  EXPECT_EQ(tokenizer.vocab_size(), smollm2().vocab_size());
  for (const auto& entry : tokenizer_golden().at("smollm2").at("texts")) {
    EXPECT_EQ(tokenizer.encode(entry["text"].get<std::string>()), entry["ids_special"].get<Ids>()) << entry["text"];
  }
  for (int32_t id = 0; id < 49152; id += 7) EXPECT_EQ(tokenizer.id_to_token(id), smollm2().id_to_token(id));
}

// An added token that the vocabulary lacks gets the next id, in the quick way of reading as in the library's.
TEST(Tokenizer, AddedTokensFollowTheVocabulary) {
  for (const bool typed : {true, false}) {
    auto json = nlohmann::ordered_json::parse(read_fixture("fallback_tokenizer.json"));
    const Tokenizer before(json.dump(), "before");
    auto token = json["added_tokens"][0];
    token["id"] = before.vocab_size();
    token["content"] = "<extra>";
    json["added_tokens"].push_back(token);
    if (!typed) json["model"].erase("type");
    const Tokenizer after(json.dump(), "after");
    EXPECT_EQ(after.vocab_size(), before.vocab_size() + 1);
    EXPECT_EQ(after.token_to_id("<extra>"), before.vocab_size());
    EXPECT_EQ(after.encode("<extra>", false), Ids{static_cast<int32_t>(before.vocab_size())});
  }
}

TEST(Tokenizer, SeveralThreadsShareOne) {
  const auto& texts = tokenizer_golden().at("smollm2").at("texts");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); i += 3) {
        if (smollm2().encode(texts[i]["text"].get<std::string>(), false) != texts[i]["ids"].get<Ids>()) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Tokenizer, RejectsWhatIsNoTokenizer) {
  const std::string whole = read_fixture("smollm2_tokenizer.json");
  EXPECT_ERROR(Tokenizer("", "a.json"), "a.json: not a tokenizer that can be read");
  EXPECT_ERROR(Tokenizer("{\"broken\": ", "a.json"), "line 1 column");
  EXPECT_ERROR(Tokenizer("[1, 2]", "a.json"), "a.json: not a tokenizer that can be read");
  EXPECT_ERROR(Tokenizer("{}", "a.json"), "a.json: not a tokenizer that can be read");
  EXPECT_ERROR(Tokenizer("{\"model\": 5}", "a.json"), "a.json: not a tokenizer that can be read");
  EXPECT_ERROR(Tokenizer("{\"a\": \"\xff\"}", "a.json"), "not valid UTF-8 at byte 7");
  EXPECT_ERROR(Tokenizer("{\"model\": " + std::string(100000, '['), "a.json"), "recursion limit");
  for (const size_t size : {size_t{1}, whole.size() / 3, whole.size() / 2, whole.size() - 3}) {
    EXPECT_ERROR(Tokenizer(whole.substr(0, size), "cut.json"), "cut.json: not a tokenizer that can be read");
  }
  const std::string merge_of_unknown =
      R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "zz"]]}, "added_tokens": []})";
  EXPECT_ERROR(Tokenizer(merge_of_unknown, "m.json"), "m.json: not a tokenizer that can be read");
}

// A changed byte may still be a tokenizer; what must not happen is anything but a tokenizer or an Error.
TEST(Tokenizer, SurvivesChangedBytes) {
  const std::string whole = read_fixture("fallback_tokenizer.json");
  int rejected = 0;
  for (size_t at = 0; at < whole.size(); at += 3) {
    std::string changed = whole;
    changed[at] = changed[at] == '1' ? '9' : '1';
    try {
      const Tokenizer tokenizer(changed, "changed.json");
      (void)tokenizer.decode(tokenizer.encode("hello wörld 😀"));
    } catch (const Error&) {
      ++rejected;
    }
  }
  EXPECT_GT(rejected, 100);
}

TEST(Tokenizer, RejectsBadInput) {
  EXPECT_ERROR(smollm2().encode("abc\xff"), "cannot tokenize: the text is not valid UTF-8 at byte 3");
  EXPECT_ERROR(smollm2().encode("\xed\xa0\x80"), "not valid UTF-8 at byte 0");
  EXPECT_ERROR(smollm2().decode(Ids{5, -1}), "token id -1 is negative");
  EXPECT_ERROR(StreamingDetokenizer(smollm2()).add(-7), "token id -7 is negative");
  EXPECT_EQ(smollm2().token_to_id("ok").has_value(), true);
}

TEST(Streaming, HoldsBackHalfOfACharacter) {
  const Ids robot = smollm2().encode("🤖", false);
  ASSERT_GE(robot.size(), 2u);
  StreamingDetokenizer stream(smollm2());
  for (size_t i = 0; i + 1 < robot.size(); ++i) EXPECT_EQ(stream.add(robot[i]), "");
  EXPECT_EQ(stream.add(robot.back()), "🤖");
  EXPECT_EQ(stream.finish(), "");

  EXPECT_EQ(stream.add(robot.front()), "");
  EXPECT_EQ(stream.finish(), "\ufffd");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.add(smollm2().encode("a", false)[0]), "a");  // as new after finish()
}

TEST(Streaming, GivesTextAtOnce) {
  const Ids ids = smollm2().encode("One two three", false);
  StreamingDetokenizer stream(smollm2());
  for (const int32_t id : ids) EXPECT_NE(stream.add(id), "");

  const Tokenizer small = golden_tokenizer("fallback");
  StreamingDetokenizer words(small);
  EXPECT_EQ(words.add(*small.token_to_id("▁hello")), "hello");
  EXPECT_EQ(words.add(*small.token_to_id("▁world")), " world");
  EXPECT_EQ(words.add(*small.token_to_id("<0x0A>")), "");
  EXPECT_EQ(words.add(*small.token_to_id("▁a")), "\n a");
}

TEST(Streaming, OutlivesTheTokenizerObject) {
  auto tokenizer = std::make_unique<Tokenizer>(golden_tokenizer("fallback"));
  const Ids ids = tokenizer->encode("hello world", false);
  StreamingDetokenizer stream(*tokenizer);
  tokenizer.reset();
  std::string text;
  for (const int32_t id : ids) text += stream.add(id);
  EXPECT_EQ(text, "hello world");
}

// The last of many tokens must cost what the first ones do, whatever the tokens are: words, single bytes that are no
// text, spaces that a decoder strips, special tokens that are skipped.
TEST(Streaming, CostDoesNotGrow) {
  for (const char* name : {"smollm2", "fallback"}) {
    const Tokenizer tokenizer = golden_tokenizer(name);
    std::vector<int32_t> candidates{0, 1};
    for (const char* token : {"▁", "▁the", "<0xC3>", "Ã", "Ġthe", "ĠĠ"}) {
      if (const auto id = tokenizer.token_to_id(token)) candidates.push_back(*id);
    }
    for (const int32_t id : candidates) {
      constexpr int kTokens = 20000;
      StreamingDetokenizer stream(tokenizer);
      std::string text;
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < kTokens; ++i) text += stream.add(id);
      text += stream.finish();
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      EXPECT_EQ(text, tokenizer.decode(Ids(kTokens, id))) << name << " " << id;
      // Decoding all tokens so far at every one would take minutes; this takes some milliseconds.
      EXPECT_LT(time.count(), 5.0) << name << " " << id;
    }
  }
}

}  // namespace
}  // namespace turboquant
