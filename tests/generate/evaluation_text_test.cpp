// The text of an evaluation: line ends, WikiText rows, windows.
#include "generate/evaluation_text.h"

#include <gtest/gtest.h>

#include "generate/micro.h"
#include "generate/state.h"
#include "io/error_of.h"
#include "io/files.h"
#include "io/temp_folder.h"

namespace turboquant {
namespace {

TEST(EvaluationText, LineEnds) {
  EXPECT_EQ(with_newlines(""), "");
  EXPECT_EQ(with_newlines("a\nb"), "a\nb");
  EXPECT_EQ(with_newlines("a\r\nb\rc\r"), "a\nb\nc\n");
  EXPECT_EQ(with_newlines("\r\r\n\n\r"), "\n\n\n\n");
}

// Rows keep their own "\n" and are joined by "\n\n", as the original joins those of the datasets library.
TEST(EvaluationText, RowsAreJoined) {
  EXPECT_EQ(join_rows(""), "");
  EXPECT_EQ(join_rows("\n \n\t\n"), "");
  EXPECT_EQ(join_rows("a\n"), "a\n");
  EXPECT_EQ(join_rows("a"), "a");
  EXPECT_EQ(join_rows(" \n = T = \n \n a b \n\n c \n"), " = T = \n\n\n a b \n\n\n c \n");
  EXPECT_EQ(join_rows("a\nb"), "a\n\n\nb");
}

TEST(EvaluationText, WikiTextIsRecognized) {
  for (const char* text :
       {" = Title = \n", " = Title =", "\n \n = Title = \n more", " = = Section = = \n", " = Title = \r\n"})
    EXPECT_TRUE(has_wikitext_rows(text)) << text;
  for (const char* text : {"", "\n\n", "= Title =\n", " Title \n = Title = \n", " = Title\n", "Title =\n", " =\n"})
    EXPECT_FALSE(has_wikitext_rows(text)) << text;
}

class CutWindows : public testing::Test {
 protected:
  Windows cut(const std::string& text, int seq_len, int num_samples = 100, const char* rows = "auto",
              bool begin_each = false) {
    write_text(folder_ / "text.txt", text);
    EvaluateOptions options;
    options.seq_len = seq_len;
    options.num_samples = num_samples;
    options.rows = rows;
    return cut_windows(*tokenizer_, (folder_ / "text.txt").string(), options, begin_each);
  }
  std::vector<int32_t> encoded(const std::string& text) const { return tokenizer_->encode(text); }

  TempFolder folder_;
  std::unique_ptr<Tokenizer> tokenizer_ =
      std::make_unique<Tokenizer>(read_text(kMicro / "tokenizer.json"), (kMicro / "tokenizer.json").string());
};

const std::string kText = "The quick brown fox jumps over the lazy dog, and then it runs away into the woods.";

TEST_F(CutWindows, WholeWindowsOnly) {
  const std::vector<int32_t> all = encoded(kText);
  ASSERT_GT(all.size(), 20u);
  for (const int length : {2, 7, static_cast<int>(all.size())}) {
    const Windows windows = cut(kText, length);
    const size_t count = all.size() / static_cast<size_t>(length);
    EXPECT_EQ(windows.count(), static_cast<int64_t>(count));
    EXPECT_EQ(windows.tokens,
              std::vector<int32_t>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count) * length));
    const auto last = windows.window(windows.count() - 1);
    EXPECT_EQ(last.size(), static_cast<size_t>(length));
    EXPECT_EQ(last.data() + length, windows.tokens.data() + windows.tokens.size());
  }
}

TEST_F(CutWindows, AsManyAsAskedFor) {
  EXPECT_EQ(cut(kText, 5, 1).count(), 1);
  EXPECT_EQ(cut(kText, 5, 3).count(), 3);
  EXPECT_EQ(cut(kText, 5, 3).tokens.size(), 15u);
}

TEST_F(CutWindows, TooShort) {
  const std::string count = std::to_string(encoded(kText).size());
  EXPECT_HAS(
      error_of([&] { cut(kText, 1000); }),
      "text.txt: has " + count + " tokens, fewer than one window of 1000; use a longer text or a smaller --seq-len");
  EXPECT_HAS(error_of([&] { cut("", 2); }), "has 0 tokens");
  EXPECT_HAS(error_of([&] { cut_windows(*tokenizer_, (folder_ / "nothing.txt").string(), {}, false); }), "nothing.txt");
}

TEST_F(CutWindows, Rows) {
  const std::string wiki = " = Title = \n \n Some text , here . \n \n More of it . \n";
  const auto begins_with = [](const Windows& windows, const std::vector<int32_t>& tokens) {
    return std::equal(windows.tokens.begin(), windows.tokens.end(), tokens.begin());
  };
  const std::vector<int32_t> joined = encoded(join_rows(wiki)), as_it_is = encoded(wiki);
  ASSERT_NE(joined, as_it_is);
  EXPECT_TRUE(begins_with(cut(wiki, 8), joined));
  EXPECT_TRUE(begins_with(cut(wiki, 8, 100, "yes"), joined));
  EXPECT_TRUE(begins_with(cut(wiki, 8, 100, "no"), as_it_is));
  const std::string plain = "One line.\nAnother line.\n\nA third line that is longer.\n";
  EXPECT_TRUE(begins_with(cut(plain, 8), encoded(plain)));
  EXPECT_TRUE(begins_with(cut(plain, 8, 100, "yes"), encoded(join_rows(plain))));
  EXPECT_TRUE(begins_with(cut("One line.\r\nAnother line.\r\n\r\nA third line", 4),
                          encoded("One line.\nAnother line.\n\nA third line")));
  // The protocol of llama.cpp takes the file as it is.
  EXPECT_TRUE(begins_with(cut(wiki, 8, 100, "auto", true), as_it_is));
  EXPECT_HAS(error_of([&] { cut(plain, 8, 100, "perhaps"); }), "--rows perhaps: use auto, yes or no");
}

TEST_F(CutWindows, BeginTokensWhereTheTokenizerAddsThem) {
  const std::vector<int32_t> without = cut(kText, 6, 100, "auto", true).tokens;
  EXPECT_EQ(without, cut(kText, 6).tokens);  // this tokenizer adds none

  nlohmann::json json = read_json(kMicro / "tokenizer.json");
  json["post_processor"] = nlohmann::json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}})");
  tokenizer_ = std::make_unique<Tokenizer>(json.dump(), "tokenizer.json");
  const Windows once = cut(kText, 6), each = cut(kText, 6, 100, "auto", true);
  EXPECT_EQ(once.tokens.front(), 0);
  ASSERT_EQ(each.tokens.size(), once.tokens.size());
  for (size_t i = 0; i < each.tokens.size(); ++i) EXPECT_EQ(each.tokens[i], i % 6 == 0 ? 0 : once.tokens[i]) << i;
}

}  // namespace
}  // namespace turboquant
