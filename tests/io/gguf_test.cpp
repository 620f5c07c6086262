// The GGUF container and its block types.
#include "io/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "core/half.h"
#include "io/checkpoint.h"
#include "io/error_of.h"
#include "io/files.h"
#include "io/gguf_builder.h"

namespace turboquant {
namespace {

const std::filesystem::path kGgufData = std::filesystem::path(TURBOQUANT_TEST_DATA) / "gguf";

GgufType type_named(std::string_view wanted) {
  for (uint32_t number = 0; number < 64; ++number)
    if (const auto type = gguf_type(number); type && name(*type) == wanted) return *type;
  throw Error("no type " + std::string(wanted));
}

// Floats must have the bits that the gguf Python package gives them.
TEST(GgufDequant, EqualsThePythonPackageBitForBit) {
  const auto index = nlohmann::json::parse(read_text(kGgufData / "blocks.json"));
  const std::string data = read_text(kGgufData / "blocks.bin");
  ASSERT_EQ(index.size(), 15U);
  for (const auto& [type_name, place] : index.items()) {
    SCOPED_TRACE(type_name);
    const GgufType type = type_named(type_name);
    const GgufBlock block = block_of(type);
    const size_t block_bytes = place["blocks"][1], n = place["floats"][1];
    ASSERT_EQ(block_bytes / block.bytes * static_cast<size_t>(block.elements), n);
    // At an odd address: rows of a file need not be aligned.
    std::string blocks = "x" + data.substr(place["blocks"][0], block_bytes);
    std::vector<float> expected(n), got(n, -1.0F);
    std::memcpy(expected.data(), data.data() + place["floats"][0].get<size_t>(), n * sizeof(float));
    const auto* begin = reinterpret_cast<const std::byte*>(blocks.data() + 1);
    dequantize(type, begin, static_cast<int64_t>(n), got.data());
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), n * sizeof(float)), 0);
    std::vector<uint16_t> halves(n);
    dequantize_to_half(type, begin, static_cast<int64_t>(n), halves.data());
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(halves[i], float_to_half(expected[i])) << "value " << i;
  }
}

TEST(GgufDequant, ManyBlocksThroughTheChunks) {
  const std::string one = Bytes().put(float_to_half(0.5F)).raw(std::string(32, '\3')).text();  // Q8_0: 32 times 1.5
  std::string blocks;
  constexpr int64_t kN = 32 * 200;  // more than a chunk, not a multiple of one
  for (int i = 0; i < 200; ++i) blocks += one;
  std::vector<uint16_t> halves(kN);
  dequantize_to_half(GgufType::q8_0, reinterpret_cast<const std::byte*>(blocks.data()), kN, halves.data());
  for (const uint16_t half : halves) ASSERT_EQ(half, float_to_half(1.5F));
}

TEST(GgufFile, ReadsMetadataOfEveryType) {
  for (const uint32_t version : {2U, 3U}) {
    GgufBuilder b;
    b.version = version;
    b.entry("u8", 0, Bytes().put<uint8_t>(200).text()).entry("i8", 1, Bytes().put<int8_t>(-3).text());
    b.entry("u16", 2, Bytes().put<uint16_t>(60000).text()).entry("i16", 3, Bytes().put<int16_t>(7).text());
    b.u32("u32", 4000000000U).entry("i32", 5, Bytes().put<int32_t>(5).text()).f32("f32", 1e-5F);
    b.flag("yes", 1).text("text", "h\xc3\xa9").entry("u64", 10, Bytes().put<uint64_t>(uint64_t{1} << 63).text());
    b.entry("i64", 11, Bytes().put<int64_t>(int64_t{1} << 40).text()).entry("f64", 12, Bytes().put(0.1).text());
    b.texts("texts", {"a", "", "c"}).ints("ints", {1, -2}).floats("floats", {0.5F, -1});
    b.tensor("t", {2, 3}, {1, 2, 3, 4, 5, 6});
    const TemporaryFile path(b.build());
    const GgufFile file(path.path());
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.integer("u8"), 200);
    EXPECT_EQ(file.number("i8"), -3.0);
    EXPECT_EQ(file.integer("u16"), 60000);
    EXPECT_EQ(file.integer("i16"), 7);
    EXPECT_EQ(file.integer("u32"), 4000000000);
    EXPECT_EQ(file.integer("i32"), 5);
    EXPECT_EQ(file.number("f32"), 1e-5);  // not the 9.99999975e-06 that the float is
    EXPECT_EQ(file.flag("yes"), true);
    EXPECT_EQ(file.text("text"), "h\xc3\xa9");
    EXPECT_EQ(file.number("u64"), 9223372036854775808.0);
    EXPECT_EQ(file.integer("i64"), int64_t{1} << 40);
    EXPECT_EQ(file.number("f64"), 0.1);
    EXPECT_EQ(file.texts("texts"), (std::vector<std::string_view>{"a", "", "c"}));
    EXPECT_EQ(file.integers("ints"), (std::vector<int64_t>{1, -2}));
    EXPECT_EQ(file.numbers("floats"), (std::vector<float>{0.5F, -1}));
    EXPECT_EQ(file.integer("absent"), std::nullopt);
    for (const auto& wrong : std::vector<std::function<void()>>{
             [&] { file.integer("i8"); }, [&] { file.integer("u64"); }, [&] { file.integer("f32"); },
             [&] { file.number("text"); }, [&] { file.flag("u8"); }, [&] { file.text("u8"); },
             [&] { file.texts("text"); }, [&] { file.texts("ints"); }, [&] { file.integers("floats"); },
             [&] { file.numbers("ints"); }, [&] { file.text("texts"); }})
      EXPECT_NE(error_of(wrong).find("metadata '"), std::string::npos);
    const GgufTensor* tensor = file.find("t");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->shape, (Shape{2, 3}));
    EXPECT_EQ(tensor->bytes, 24U);
    float last = 0;
    std::memcpy(&last, file.data(*tensor) + 20, 4);
    EXPECT_EQ(last, 6.0F);
    EXPECT_EQ(file.source_type(), "F32");
  }
}

TEST(GgufFile, HonoursTheAlignment) {
  for (const uint32_t alignment : {1U, 8U, 64U, 4096U}) {
    GgufBuilder b;
    b.alignment = alignment;
    b.u32("general.alignment", alignment).tensor("a", {1}, {1}).tensor("b", {1}, {2});
    const TemporaryFile path(b.build());
    const GgufFile file(path.path());
    EXPECT_EQ(file.find("b")->offset % alignment, 0U);
    float value = 0;
    std::memcpy(&value, file.data(*file.find("b")), 4);
    EXPECT_EQ(value, 2.0F);
  }
}

struct Attack {
  std::string what;
  std::string bytes;
  std::string message;  // what the error must say
};

std::vector<Attack> attacks() {
  constexpr uint64_t kHuge = ~uint64_t{0};
  const std::string four = Bytes().put(1.0F).text();
  std::vector<Attack> list;
  const auto add = [&list](std::string what, const GgufBuilder& builder, std::string message) {
    list.push_back({std::move(what), builder.build(), std::move(message)});
  };
  const auto with = [](auto change) {
    GgufBuilder b;
    change(b);
    return b;
  };
  const auto counts = [&](uint64_t tensors, uint64_t entries) {
    return Bytes().raw("GGUF").put<uint32_t>(3).put(tensors).put(entries).raw(std::string(64, '\0')).text();
  };
  add("magic", with([](auto& b) { b.magic = "GGML"; }), "is not a GGUF file");
  list.push_back({"three bytes", "GGU", "is not a GGUF file"});
  list.push_back({"only the magic", "GGUF", "the version needs 4 bytes"});
  add("version 0", with([](auto& b) { b.version = 0; }), "version 0; versions 2 and 3");
  add("version 1", with([](auto& b) { b.version = 1; }), "version 1, which is not supported");
  add("version 4", with([](auto& b) { b.version = 4; }), "version 4; versions 2 and 3");
  add("big endian", with([](auto& b) { b.version = 0x03000000; }), "big-endian");
  list.push_back({"huge count of tensors", counts(kHuge, 0), "tensors, more than it can hold"});
  list.push_back({"huge count of entries", counts(0, kHuge), "metadata entries, more than it can hold"});
  add("one entry too many", with([](auto& b) { b.extra_entries = 1; }), "more than it can hold");
  add("one tensor too many", with([&](auto& b) { b.tensor("t", {1}, {1}).extra_tensors = 1; }), "");
  list.push_back({"key longer than the file", counts(0, 1).replace(24, 8, Bytes().put<uint64_t>(5000).text()),
                  "a metadata key needs 5000 bytes"});
  list.push_back({"key of 2^64 - 1 bytes", counts(0, 1).replace(24, 8, Bytes().put(kHuge).text()), "a metadata key"});
  add("empty key", with([](auto& b) { b.u32("", 1); }), "empty key");
  add("key twice", with([](auto& b) { b.u32("k", 1).u32("k", 2); }), "metadata 'k': the key occurs twice");
  add("unknown value type", with([](auto& b) { b.entry("k", 13, "12345678"); }), "unknown value type 13");
  add("boolean of 2", with([](auto& b) { b.flag("k", 2); }), "must be 0 or 1");
  add("string longer than the file", with([](auto& b) { b.entry("k", 8, Bytes().put(kHuge).text()); }), "metadata 'k'");
  const auto array = [](uint32_t type, uint64_t count) { return Bytes().put(type).put(count).raw("12345678").text(); };
  add("array of arrays", with([&](auto& b) { b.entry("k", 9, array(9, 1)); }), "arrays of arrays");
  add("huge array", with([&](auto& b) { b.entry("k", 9, array(10, kHuge)); }), "more than the file can hold");
  add("array whose bytes wrap", with([&](auto& b) { b.entry("k", 9, array(10, (uint64_t{1} << 61) + 1)); }),
      "more than the file can hold");
  add("huge array of strings", with([&](auto& b) { b.entry("k", 9, array(8, kHuge)); }), "strings, more than");
  add("array of an unknown type", with([&](auto& b) { b.entry("k", 9, array(99, 1)); }), "unknown value type 99");
  for (const uint32_t alignment : {0U, 3U, 48U, 1U << 21, ~0U})
    add("alignment " + std::to_string(alignment), with([&](auto& b) { b.u32("general.alignment", alignment); }),
        "is not a power of two");
  add("alignment that is text", with([](auto& b) { b.text("general.alignment", "32"); }), "'general.alignment'");
  add("tensor without a name", with([&](auto& b) { b.tensor("", {1}, {1}); }), "tensor without a name");
  add("long tensor name", with([&](auto& b) { b.tensor(std::string(1025, 'n'), {1}, {1}); }), "at most 1024");
  add("tensor twice", with([&](auto& b) { b.tensor("t", {1}, {1}).tensor("t", {1}, {2}); }),
      "tensor 't': the name occurs twice");
  add("rank 5", with([&](auto& b) { b.tensor("t", 0, {1, 1, 1, 1, 1}, four); }), "tensor 't': rank 5");
  add("rank 0", with([&](auto& b) { b.tensor("t", 0, {}, four); }), "tensor 't': rank 0");
  add("dimension 0", with([&](auto& b) { b.tensor("t", 0, {1, 0}, four); }), "dimension 0");
  add("dimension 2^63", with([&](auto& b) { b.tensor("t", 0, {uint64_t{1} << 63}, four); }), "too large");
  add("elements wrap", with([&](auto& b) {
        b.tensor("t", 0, {uint64_t{1} << 32, uint64_t{1} << 32}, four);
      }),
      "too large");
  add("bytes wrap", with([&](auto& b) { b.tensor("t", 0, {uint64_t{1} << 62}, four); }), "too large");
  add("unknown type", with([&](auto& b) { b.tensor("t", 99, {1}, four); }), "tensor 't': its type type 99");
  add("unsupported type", with([&](auto& b) { b.tensor("t", 23, {256}, std::string(136, 'x')); }),
      "tensor 't': its type IQ4_XS is not supported");
  add("broken row", with([&](auto& b) { b.tensor("t", 2, {2, 48}, std::string(54, 'x')); }), "Q4_0 blocks of 32");
  add("offset off the alignment", with([&](auto& b) { b.tensor("t", {1}, {1}).at(4); }), "multiple of the alignment");
  add("offset behind the file", with([&](auto& b) { b.tensor("t", {1}, {1}).at(1 << 20); }), "end behind");
  add("offset near 2^63", with([&](auto& b) { b.tensor("t", {1}, {1}).at(int64_t{1} << 62); }), "end behind");
  add("longer than the file", with([&](auto& b) { b.tensor("t", 0, {1000}, four); }), "end behind");
  add("same place", with([&](auto& b) { b.tensor("t", {1}, {1}).tensor("u", {1}, {2}).at(0); }), "overlap");
  add("partly the same place",
      with([&](auto& b) { b.tensor("t", 0, {16}, std::string(64, 'x')).tensor("u", {1}, {2}).at(32); }), "overlap");
  return list;
}

TEST(GgufFile, RefusesDamagedFilesWithOneClearLine) {
  const auto list = attacks();
  EXPECT_GE(list.size(), 40U);
  for (const Attack& attack : list) {
    SCOPED_TRACE(attack.what);
    const TemporaryFile path(attack.bytes);
    const std::string message = error_of([&] { GgufFile file(path.path()); });
    EXPECT_TRUE(message.starts_with(path.path().string() + ": ")) << message;
    EXPECT_HAS(message, attack.message);
  }
}

TEST(GgufFile, ErrorsShowNoControlCharacters) {
  const TemporaryFile path(GgufBuilder().tensor("evil\n\x1b[31m", 99, {1}, "1234").build());
  const std::string message = error_of([&] { GgufFile file(path.path()); });
  EXPECT_NE(message.find("tensor 'evil"), std::string::npos) << message;
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20);
}

// Of tiny_llama(), up to its last tensor's entry.
size_t header_size(const std::string& file) { return file.find("output_norm.weight") + 42; }

// Everything that a program does with a file.
void use(const std::filesystem::path& path) {
  const auto checkpoint = open_gguf_checkpoint(path);
  for (const TensorInfo& info : checkpoint->tensors()) checkpoint->read(info.name);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) checkpoint->file(name);
}

// Empty if all goes well; an exception that is no Error passes through and fails the test.
std::string problem_of(const std::filesystem::path& path) {
  try {
    use(path);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(GgufFile, RefusesEveryTruncation) {
  const std::string whole = tiny_llama().build();
  const TemporaryFile path(whole);
  ASSERT_EQ(problem_of(path.path()), "");
  // Every byte of the header, every 16th of the data.
  for (size_t size = 0; size < whole.size(); size += size < header_size(whole) ? 1 : 16) {
    path.write(whole.substr(0, size));
    EXPECT_NE(problem_of(path.path()), "") << size << " of " << whole.size() << " bytes";
  }
}

TEST(GgufFile, SurvivesFlippedBits) {
  const std::string whole = tiny_llama().build();
  const size_t header = header_size(whole);
  std::mt19937 random(1);
  const TemporaryFile path(whole);
  int refused = 0;
  constexpr int kTrials = 3000;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::string bytes = whole;
    const int flips = 1 + trial % 3;
    for (int i = 0; i < flips; ++i) bytes[random() % header] ^= static_cast<char>(1U << random() % 8);
    path.write(bytes);
    const std::string message = problem_of(path.path());
    if (message.empty()) continue;
    ++refused;
    EXPECT_TRUE(message.starts_with(path.path().string())) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  EXPECT_GT(refused, kTrials / 4);  // flips inside token texts and the like are harmless
}

}  // namespace
}  // namespace turboquant
