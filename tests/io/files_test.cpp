#include "io/files.h"

#include <gtest/gtest.h>

#include "io/error_of.h"
#include "io/file_size_limit.h"
#include "io/safetensors.h"
#include "io/temp_folder.h"

namespace turboquant {
namespace {

TEST(Files, FullDiskKeepsTheOldFile) {
  const TempFolder folder;
  write_text(folder / "config.json", "old");
  {
    const FileSizeLimit limit(1000);
    EXPECT_HAS(error_of([&] { write_text(folder / "config.json", std::string(5000, 'x')); }),
               "config.json: cannot be written: File too large");
    EXPECT_HAS(error_of([&] {
                 write_safetensors(folder / "x", {{"a", Tensor::zeros(DType::u8, {5000})}});
               }),
               "/x: cannot be written: File too large");
  }
  EXPECT_EQ(read_text(folder / "config.json"), "old");
  EXPECT_EQ(folder.file_count(), 1u);
  write_text(folder / "config.json", "new");
  EXPECT_EQ(read_text(folder / "config.json"), "new");
}

TEST(Files, ReadText) {
  const TempFolder folder;
  const std::string text(200'000, 't');
  write_text(folder / "t", text);
  EXPECT_EQ(read_text(folder / "t"), text);
  write_text(folder / "e", "");
  EXPECT_EQ(read_text(folder / "e"), "");
  EXPECT_FALSE(read_text("/proc/self/status").empty());  // stat says 0 bytes
  EXPECT_HAS(error_of([&] { read_text(folder / "none"); }), "/none: no such file");
  EXPECT_HAS(error_of([&] { read_text(folder.path()); }), "is a folder");
  EXPECT_HAS(error_of([&] { read_text(folder / "t", 1000); }), "larger than the 1000 bytes");
  EXPECT_HAS(error_of([&] { read_text("/dev/zero", 1'000'000); }), "larger than the 1000000 bytes");
  EXPECT_HAS(error_of([&] { write_text(folder / "t/x", ""); }), "cannot be written: Not a directory");
  EXPECT_HAS(error_of([&] { sync_folder(folder / "none"); }), "cannot be opened: No such file or directory");
}

TEST(Files, ParseJson) {
  EXPECT_EQ(parse_json("{\"a\": [1, 2]}", "x.json").at("a").at(1), 2);
  EXPECT_HAS(error_of([&] { parse_json("{\n  \"a\": ?\n}", "x.json"); }),
             "x.json: not valid JSON: parse error at line 2, column 8");
  EXPECT_HAS(error_of([&] { parse_json("", "x.json"); }), "x.json: not valid JSON");
  EXPECT_HAS(error_of([&] { parse_json(std::string_view("{}\0!", 4), "x.json"); }), "x.json: not valid JSON");
  EXPECT_HAS(error_of([&] { parse_json("1e999", "x.json"); }), "x.json: not valid JSON");
  EXPECT_HAS(error_of([&] { parse_json("\"\xff\"", "x.json"); }), "x.json: not valid JSON");
  EXPECT_NO_THROW(parse_json(std::string(100, '[') + std::string(100, ']'), "x.json"));
  EXPECT_HAS(error_of([&] { parse_json(std::string(102, '[') + std::string(102, ']'), "x.json"); }),
             "x.json: JSON nested deeper than 100 levels");
  EXPECT_HAS(error_of([&] { parse_json(std::string(1'000'000, '['), "x.json"); }), "nested deeper");
}

TEST(Files, Quote) {
  EXPECT_EQ(quote("model.norm"), "'model.norm'");
  EXPECT_EQ(quote("a\nb\x1b[0m\x7f"), "'a?b?[0m?'");
  EXPECT_EQ(quote("ü 漢 \"\\"), "'ü 漢 \"\\'");
  EXPECT_EQ(quote("\xc2\x9b"), "'?'");  // a control character of two bytes
  EXPECT_EQ(quote("a\xff"), "'a\xef\xbf\xbd'");
  EXPECT_EQ(quote(std::string(199, 'a') + "ü"), "'" + std::string(199, 'a') + "...'");
  EXPECT_EQ(quote(std::string(200, 'a')), "'" + std::string(200, 'a') + "'");
}

}  // namespace
}  // namespace turboquant
