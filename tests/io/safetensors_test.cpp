#include "io/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "io/error_of.h"
#include "io/file_size_limit.h"
#include "io/temp_folder.h"

namespace turboquant {
namespace {

void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  // A new file: cutting an old one makes some file systems write it to the disk at once, thousands of times here.
  std::filesystem::remove(path);
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good());
}

// Size, header, and `data_bytes` bytes of data.
std::string safetensors_bytes(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + std::string(data_bytes, 'x');
}

Tensor random_tensor(DType dtype, Shape shape, uint32_t seed) {
  Tensor tensor = Tensor::zeros(dtype, shape);
  std::mt19937 generator(seed);
  for (size_t i = 0; i < tensor.bytes(); ++i) tensor.data<uint8_t>()[i] = static_cast<uint8_t>(generator());
  return tensor;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (a.bytes() == 0 || std::memcmp(a.data<std::byte>(), b.data<std::byte>(), a.bytes()) == 0);
}

std::map<std::string, Tensor> varied_tensors() {
  return {
      {"a.weight", random_tensor(DType::bf16, {32, 48}, 1)},
      {"b.bias", random_tensor(DType::f32, {7}, 2)},
      {"c.odd", random_tensor(DType::u8, {3, 5, 7}, 3)},
      {"d.scalar", random_tensor(DType::f64, {}, 4)},
      {"e.empty", Tensor::zeros(DType::i64, {0, 9})},
      {"f.packed", random_tensor(DType::u8, {4, 272}, 5)},
      {"g.one", random_tensor(DType::boolean, {1}, 6)},
      {"h \"quoted\" \\ ü", random_tensor(DType::i16, {2, 2}, 7)},
      {"i.six", random_tensor(DType::f16, {1, 2, 1, 3, 1, 2}, 8)},
  };
}

std::vector<TensorInfo> plan_of(const std::map<std::string, Tensor>& tensors) {
  std::vector<TensorInfo> plan;
  for (const auto& [name, tensor] : tensors) plan.push_back({name, tensor.dtype(), tensor.shape()});
  return plan;
}

// Offsets of all tensors from the start of the file, fillers too, read from the header by other means than the
// reader's.
std::map<std::string, uint64_t> file_offsets(const std::filesystem::path& path) {
  const std::string bytes = read_text(path);
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, size));
  std::map<std::string, uint64_t> offsets;
  for (const auto& [name, entry] : header.items())
    if (name != "__metadata__") offsets[name] = 8 + size + entry.at("data_offsets").at(0).get<uint64_t>();
  return offsets;
}

TEST(Safetensors, RoundTrip) {
  const TempFolder folder;
  const auto tensors = varied_tensors();
  const std::map<std::string, std::string> metadata = {{"format", "mlx"}, {"note", "two\nlines \"q\""}};
  write_safetensors(folder / "x.safetensors", tensors, metadata);
  EXPECT_EQ(folder.file_count(), 1u);

  const SafetensorsFile file(folder / "x.safetensors");
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_EQ(file.size(), std::filesystem::file_size(folder / "x.safetensors"));
  ASSERT_EQ(file.tensors().size(), tensors.size());  // no fillers among them
  auto expected = tensors.begin();
  for (const TensorInfo& info : file.tensors()) {
    EXPECT_EQ(info.name, expected->first);
    EXPECT_TRUE(file.contains(info.name));
    EXPECT_TRUE(same(file.tensor(info.name), expected->second)) << info.name;
    ++expected;
  }
  EXPECT_FALSE(file.contains("__padding.0"));
  const std::string text = error_of([&] { file.tensor("z"); });
  EXPECT_HAS(text, "x.safetensors: no tensor 'z'");
}

TEST(Safetensors, EveryTensorStartsAt64) {
  const TempFolder folder;
  const auto tensors = varied_tensors();
  write_safetensors(folder / "x.safetensors", tensors);
  const auto offsets = file_offsets(folder / "x.safetensors");
  size_t fillers = 0;
  for (const auto& [name, offset] : offsets) {
    if (name.starts_with(kPaddingPrefix))
      ++fillers;
    else
      EXPECT_EQ(offset % 64, 0u) << name;
  }
  // Six tensors are no multiple of 64 bytes; the last needs no filler.
  EXPECT_EQ(fillers, 5u);
  const SafetensorsFile file(folder / "x.safetensors");
  for (const TensorInfo& info : file.tensors())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.tensor(info.name).data<std::byte>()) % 64, 0u) << info.name;
}

TEST(Safetensors, NoTensorsAtAll) {
  const TempFolder folder;
  write_safetensors(folder / "x.safetensors", {});
  EXPECT_TRUE(SafetensorsFile(folder / "x.safetensors").tensors().empty());
}

TEST(Safetensors, NullMetadataIsNone) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "null.safetensors";
  write_bytes(path,
              safetensors_bytes(R"({"__metadata__":null,"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2));
  const SafetensorsFile file(path);
  EXPECT_TRUE(file.metadata().empty());
  EXPECT_EQ(file.tensor("a").elements(), 2);
  write_bytes(path, safetensors_bytes(R"({"__metadata__":null,"__metadata__":{}})", 0));
  EXPECT_HAS(error_of([&] { SafetensorsFile twice(path); }), "__metadata__ appears twice");
}

TEST(Safetensors, ViewsOutliveTheFile) {
  const TempFolder folder;
  const auto tensors = varied_tensors();
  write_safetensors(folder / "x.safetensors", tensors);
  Tensor view;
  {
    const SafetensorsFile file(folder / "x.safetensors");
    view = file.tensor("a.weight");
    // Nothing is copied: two calls give the same address.
    EXPECT_EQ(view.data<std::byte>(), file.tensor("a.weight").data<std::byte>());
  }
  std::filesystem::remove(folder / "x.safetensors");
  EXPECT_TRUE(same(view, tensors.at("a.weight")));
}

TEST(Safetensors, UnalignedTensorsAreCopied) {
  const TempFolder folder;
  // The header is 1 byte short of a multiple of 4, so a float tensor starts unaligned.
  std::string header = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  while ((8 + header.size()) % 4 != 3) header += ' ';
  std::string bytes = safetensors_bytes(header, 8);
  const float values[2] = {1.5f, -2.25f};
  std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
  write_bytes(folder / "x.safetensors", bytes);
  const Tensor tensor = SafetensorsFile(folder / "x.safetensors").tensor("x");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data<float>()) % alignof(float), 0u);
  EXPECT_EQ(tensor.data<float>()[0], 1.5f);
  EXPECT_EQ(tensor.data<float>()[1], -2.25f);
}

// scripts/make_safetensors_fixture.py: every tensor counts up from 0.
TEST(Safetensors, ReadsThePythonPackagesFile) {
  const SafetensorsFile file(std::filesystem::path(TURBOQUANT_TEST_DATA) / "io/python.safetensors");
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"note", "two\nlines"}}));
  ASSERT_EQ(file.tensors().size(), 19u);
  EXPECT_EQ(file.tensor("shapes.scalar").shape(), Shape{});
  EXPECT_EQ(file.tensor("shapes.scalar").data<float>()[0], 42.0f);
  EXPECT_EQ(file.tensor("shapes.empty").shape(), (Shape{0, 4}));
  EXPECT_EQ(file.tensor("shapes.six").shape(), (Shape{1, 2, 1, 3, 1, 2}));
  EXPECT_EQ(file.tensor("shapes.six").data<int32_t>()[11], 11);
  EXPECT_EQ(file.tensor("names.\"quotes\" and ünïcode 漢").data<int16_t>()[1], 1);
  const auto check = [&](const std::string& name, DType dtype, auto decode) {
    const Tensor tensor = file.tensor("types." + name);
    EXPECT_EQ(tensor.dtype(), dtype) << name;
    ASSERT_EQ(tensor.shape(), (Shape{3, 5})) << name;
    for (int i = 0; i < 15; ++i) EXPECT_EQ(decode(tensor, i), static_cast<double>(i)) << name;
  };
  const auto plain = [&]<typename T>(T, const std::string& name, DType dtype) {
    check(name, dtype, [](const Tensor& t, int i) { return static_cast<double>(t.data<T>()[i]); });
  };
  plain(uint8_t{}, "uint8", DType::u8);
  plain(int8_t{}, "int8", DType::i8);
  plain(uint16_t{}, "uint16", DType::u16);
  plain(int16_t{}, "int16", DType::i16);
  plain(uint32_t{}, "uint32", DType::u32);
  plain(int32_t{}, "int32", DType::i32);
  plain(uint64_t{}, "uint64", DType::u64);
  plain(int64_t{}, "int64", DType::i64);
  plain(float{}, "float32", DType::f32);
  plain(double{}, "float64", DType::f64);
  check("float16", DType::f16, [](const Tensor& t, int i) { return to_float(t).data<float>()[i]; });
  check("bfloat16", DType::bf16, [](const Tensor& t, int i) { return to_float(t).data<float>()[i]; });
  EXPECT_EQ(file.tensor("types.float8_e4m3fn").dtype(), DType::f8_e4m3);
  EXPECT_EQ(file.tensor("types.float8_e4m3fn").data<uint8_t>()[1], 0x38);  // 1.0
  EXPECT_EQ(file.tensor("types.float8_e5m2").dtype(), DType::f8_e5m2);
  EXPECT_EQ(file.tensor("types.float8_e5m2").data<uint8_t>()[1], 0x3c);  // 1.0
  EXPECT_EQ(file.tensor("types.bool").dtype(), DType::boolean);
  EXPECT_EQ(file.tensor("types.bool").data<uint8_t>()[3], 1);
}

struct BadFile {
  const char* title;
  std::string bytes;
  const char* expected;  // part of the error
};

std::vector<BadFile> bad_files() {
  std::vector<BadFile> cases;
  const auto raw = [&](const char* title, const std::string& bytes, const char* expected) {
    cases.push_back({title, bytes, expected});
  };
  const auto header = [&](const char* title, const std::string& text, size_t data, const char* expected) {
    cases.push_back({title, safetensors_bytes(text, data), expected});
  };
  // One tensor 'a.b' with these fields.
  const auto tensor = [&](const char* title, const std::string& fields, size_t data, const char* expected) {
    header(title, "{\"a.b\":{" + fields + "}}", data, expected);
  };
  const std::string ok = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

  raw("empty", "", "is empty");
  raw("seven bytes", std::string(7, '\0'), "only 7 bytes long");
  raw("size only", std::string("\x40\0\0\0\0\0\0\0", 8), "header of 64 bytes in a file of 8");
  raw("no header", std::string(8, '\0'), "does not begin with '{'");
  raw("huge header", std::string(8, '\xff'), "header of 18446744073709551615 bytes, at most 100000000");
  raw("header longer than allowed", std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), "at most 100000000 are allowed");
  raw("GGUF", "GGUF" + std::string(100, '\0'), "GGUF file");
  raw("LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull");
  header("a list", "[1]", 0, "does not begin with '{'");
  header("leading space", " {}", 0, "does not begin with '{'");
  header("cut JSON", R"({"a.b":{"dtype":"F32")", 8, "not valid JSON: parse error at line 1, column");
  header("two documents", "{}{}", 0, "not valid JSON");
  header("binary behind the JSON", std::string("{}\0\0", 4), 0, "the header holds zero bytes");
  header("not UTF-8", "{\"a\xff\":{" + ok + "}}", 8, "not valid JSON");
  header("a comment", "{/*x*/}", 0, "not valid JSON");
  header("deep list", "{\"a\":" + std::string(100000, '['), 0, "expected an object for 'a', got a list");
  header("deep object", "{\"a\":{\"shape\":" + std::string(100000, '['), 0, "a list does not belong in shape");
  header("deep metadata", R"({"__metadata__":{"a":{"b":{}}}})", 0, "expected a string for 'a', got an object");
  header("metadata number", R"({"__metadata__":{"a":1}})", 0, "__metadata__: expected a string for 'a', got a number");
  header("metadata twice", R"({"__metadata__":{},"__metadata__":{}})", 0, "__metadata__ appears twice");
  header("metadata key twice", R"({"__metadata__":{"k":"1","k":"2"}})", 0, "key 'k' appears twice");
  header("metadata is a list", R"({"__metadata__":[]})", 0, "expected an object for '__metadata__'");
  header("a number for a tensor", R"({"a":5})", 0, "expected an object for 'a', got a number");
  header("null for a tensor", R"({"a":null})", 0, "got null");
  header("a name twice", "{\"a.b\":{" + ok + "},\"a.b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]}}", 8,
         "tensor 'a.b' appears twice");
  tensor("no fields", "", 0, "tensor 'a.b': dtype is missing");
  tensor("no dtype", R"("shape":[2],"data_offsets":[0,8])", 8, "dtype is missing");
  tensor("no shape", R"("dtype":"F32","data_offsets":[0,8])", 8, "shape is missing");
  tensor("no offsets", R"("dtype":"F32","shape":[2])", 8, "data_offsets is missing");
  tensor("field twice", ok + R"(,"shape":[2])", 8, "shape appears twice");
  tensor("unknown field", ok + R"(,"order":"C")", 8, "unknown field 'order'");
  tensor("unknown dtype", R"("dtype":"F33","shape":[2],"data_offsets":[0,8])", 8, "element type 'F33'");
  tensor("dtype of control codes", R"("dtype":"\u001b[31m\n","shape":[2],"data_offsets":[0,8])", 8, "'?[31m?'");
  tensor("dtype is a number", R"("dtype":5,"shape":[2],"data_offsets":[0,8])", 8, "a number does not belong in dtype");
  tensor("dtype is an object", R"("dtype":{},"shape":[2],"data_offsets":[0,8])", 8,
         "an object does not belong in dtype");
  tensor("shape is a number", R"("dtype":"F32","shape":2,"data_offsets":[0,8])", 8,
         "a number does not belong in shape");
  tensor("shape of strings", R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])", 8, "a string does not belong");
  tensor("negative dimension", R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])", 8, "negative number -2 in shape");
  tensor("two negative dimensions", R"("dtype":"F32","shape":[-2,-1],"data_offsets":[0,8])", 8, "negative number");
  tensor("fraction", R"("dtype":"F32","shape":[2.5],"data_offsets":[0,8])", 8, "'2.5' in shape is not a whole number");
  tensor("exponent", R"("dtype":"F32","shape":[2e0],"data_offsets":[0,8])", 8, "is not a whole number");
  tensor("beyond 64 bits", R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8])", 8,
         "is not a whole number of 64 bits");
  tensor("beyond 63 bits", R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])", 8, "is too large");
  tensor("product overflows to 8 bytes", R"("dtype":"F32","shape":[4611686018427387905,2],"data_offsets":[0,8])", 8,
         "shape [4611686018427387905, 2] is too large");
  tensor("product overflows by the element size", R"("dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8])",
         8, "is too large");
  tensor("product overflows to 0", R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0,
         "is too large");
  tensor("rank 7", R"("dtype":"F32","shape":[1,1,1,1,1,1,2],"data_offsets":[0,8])", 8, "more than 6 dimensions");
  tensor("one offset", R"("dtype":"F32","shape":[2],"data_offsets":[0])", 8, "data_offsets must be two numbers");
  tensor("three offsets", R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])", 8, "must be two numbers");
  tensor("negative offset", R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])", 8,
         "negative number -8 in data_offsets");
  tensor("backwards", R"("dtype":"F32","shape":[2],"data_offsets":[8,0])", 8, "end before they begin");
  tensor("outside", R"("dtype":"U8","shape":[99],"data_offsets":[0,99])", 64,
         "tensor 'a.b': data_offsets [0, 99] outside the file's 64 bytes of data; the file is damaged or was not fully "
         "downloaded");
  tensor("begins outside", R"("dtype":"F32","shape":[0],"data_offsets":[9,9])", 8, "[9, 9] outside the file's 8 bytes");
  tensor("far outside", R"("dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,9223372036854775807])", 8,
         "outside the file's 8 bytes");
  tensor("too short for its shape", R"("dtype":"F32","shape":[3],"data_offsets":[0,8])", 8, "takes 12");
  tensor("too long for its shape", R"("dtype":"F32","shape":[1],"data_offsets":[0,8])", 8, "hold 8 bytes");
  tensor("hole before", R"("dtype":"F32","shape":[1],"data_offsets":[4,8])", 8, "4 bytes before its data_offsets");
  tensor("bytes behind", R"("dtype":"F32","shape":[1],"data_offsets":[0,4])", 8, "4 bytes behind the last tensor");
  header("data without tensors", "{}", 8, "8 bytes behind the last tensor");
  const std::string a = R"("a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]})";
  header("overlap", "{" + a + R"(,"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})", 12, "overlap tensor 'a'");
  header("same bytes twice", "{" + a + R"(,"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})", 8, "overlap tensor");
  header("hole between", "{" + a + R"(,"b":{"dtype":"U8","shape":[8],"data_offsets":[9,17]}})", 17,
         "tensor 'b': 1 bytes before");
  header("a name of a megabyte", "{\"" + std::string(1000000, 'n') + "\":1}", 0, "nnn...'");
  return cases;
}

TEST(Safetensors, DamagedFiles) {
  const TempFolder folder;
  const auto path = folder / "model.safetensors";
  const auto cases = bad_files();
  ASSERT_GE(cases.size(), 50u);
  for (const BadFile& bad : cases) {
    SCOPED_TRACE(bad.title);
    write_bytes(path, bad.bytes);
    const std::string text = error_of([&] { SafetensorsFile file(path); });
    EXPECT_TRUE(text.starts_with(path.string() + ": ")) << text;
    EXPECT_HAS(text, bad.expected);
    EXPECT_LT(text.size(), 700u);
  }
}

TEST(Safetensors, MissingFileAndFolder) {
  const TempFolder folder;
  EXPECT_HAS(error_of([&] { SafetensorsFile file(folder / "none"); }), "/none: no such file");
  EXPECT_HAS(error_of([&] { SafetensorsFile file(folder.path()); }), "is a folder");
  EXPECT_HAS(error_of([&] { SafetensorsFile file("/dev/null"); }), "is not a regular file");
  if (::geteuid() == 0) return;  // root reads everything
  write_bytes(folder / "locked", "x");
  std::filesystem::permissions(folder / "locked", std::filesystem::perms::none);
  EXPECT_HAS(error_of([&] { SafetensorsFile file(folder / "locked"); }), "/locked: cannot be read: Permission denied");
}

// Reads everything that a file which opens says it holds.
uint64_t touch(const SafetensorsFile& file) {
  uint64_t sum = 0;
  for (const TensorInfo& info : file.tensors()) {
    const Tensor tensor = file.tensor(info.name);
    for (size_t i = 0; i < tensor.bytes(); ++i) sum += tensor.data<uint8_t>()[i];
  }
  return sum;
}

TEST(Safetensors, EveryCutIsAnError) {
  const TempFolder folder;
  const std::string whole = read_text(std::filesystem::path(TURBOQUANT_TEST_DATA) / "io/python.safetensors");
  for (size_t size = 0; size < whole.size(); ++size) {
    write_bytes(folder / "x.safetensors", whole.substr(0, size));
    EXPECT_THROW(SafetensorsFile file(folder / "x.safetensors"), Error) << size;
  }
}

TEST(Safetensors, FlippedBitsNeverCrash) {
  const TempFolder folder;
  const auto path = folder / "x.safetensors";
  write_safetensors(path, varied_tensors(), {{"format", "pt"}});
  const std::string whole = read_text(path);
  uint64_t header_size = 0;
  std::memcpy(&header_size, whole.data(), 8);
  std::mt19937 generator(20240607);
  size_t refused = 0;
  size_t sum = 0;
  constexpr size_t kTries = 4000;
  for (size_t i = 0; i < kTries; ++i) {
    std::string damaged = whole;
    // One to three bits of size and header.
    for (size_t flips = 1 + i % 3; flips > 0; --flips)
      damaged[generator() % (8 + header_size)] ^= static_cast<char>(1 << generator() % 8);
    write_bytes(path, damaged);
    try {
      sum += touch(SafetensorsFile(path));
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("x.safetensors"), std::string::npos);
      ++refused;
    }
  }
  // A flip in a name, or of a blank into a tab, leaves a valid file.
  EXPECT_GT(refused, kTries / 2);
  EXPECT_LT(refused, kTries);
  EXPECT_GT(sum, 0u);
}

TEST(SafetensorsWriter, OneFileAndItsIndex) {
  const TempFolder folder;
  const auto tensors = varied_tensors();
  uint64_t bytes = 0;
  {
    SafetensorsWriter writer(folder.path(), plan_of(tensors), {{"format", "mlx"}});
    for (auto at = tensors.rbegin(); at != tensors.rend(); ++at) {  // any order will do
      writer.add(at->first, at->second);
      bytes += at->second.bytes();
    }
    EXPECT_EQ(writer.bytes(), bytes);
    writer.finish(12345);
  }
  EXPECT_EQ(folder.file_count(), 2u);
  const SafetensorsFile file(folder / "model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "mlx");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same(file.tensor(name), tensor)) << name;
  for (const auto& [name, offset] : file_offsets(folder / "model.safetensors"))
    EXPECT_TRUE(name.starts_with(kPaddingPrefix) || offset % 64 == 0) << name;

  const auto index = read_json(folder / "model.safetensors.index.json");
  EXPECT_EQ(index.at("metadata").at("total_size"), bytes);
  EXPECT_EQ(index.at("metadata").at("total_parameters"), 12345);
  ASSERT_EQ(index.at("weight_map").size(), tensors.size());
  for (const auto& [name, shard] : index.at("weight_map").items()) {
    EXPECT_TRUE(tensors.contains(name));
    EXPECT_EQ(shard, "model.safetensors");
  }
}

TEST(SafetensorsWriter, ShardsFromSeveralThreads) {
  const TempFolder folder;
  std::map<std::string, Tensor> tensors;
  for (int i = 0; i < 60; ++i)
    tensors["layer." + std::to_string(i)] = random_tensor(DType::u8, {100 + i * 37 % 900}, static_cast<uint32_t>(i));
  constexpr uint64_t kShard = 4000;
  SafetensorsWriter writer(folder.path(), plan_of(tensors), {}, kShard);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      size_t i = 0;
      for (const auto& [name, tensor] : tensors)
        if (i++ % 4 == t) writer.add(name, tensor);
    });
  }
  for (auto& thread : threads) thread.join();
  writer.finish(1);

  const auto index = read_json(folder / "model.safetensors.index.json");
  std::map<std::string, uint64_t> shard_bytes;
  for (const auto& [name, tensor] : tensors) {
    const auto shard = index.at("weight_map").at(name).get<std::string>();
    shard_bytes[shard] += tensor.bytes();
    EXPECT_TRUE(same(SafetensorsFile(folder / shard).tensor(name), tensor)) << name;
  }
  ASSERT_GT(shard_bytes.size(), 3u);
  EXPECT_EQ(folder.file_count(), shard_bytes.size() + 1);
  char last[64];
  std::snprintf(last, sizeof last, "model-%05zu-of-%05zu.safetensors", shard_bytes.size(), shard_bytes.size());
  EXPECT_TRUE(shard_bytes.contains("model-00001-of-" + std::string(last).substr(15)));
  EXPECT_TRUE(shard_bytes.contains(last));
  for (const auto& [shard, bytes] : shard_bytes) EXPECT_LE(bytes, kShard) << shard;
  const auto checkpoint_size = index.at("metadata").at("total_size").get<uint64_t>();
  EXPECT_EQ(checkpoint_size, writer.bytes());
}

TEST(SafetensorsWriter, ATensorLargerThanAShardGetsItsOwn) {
  const TempFolder folder;
  const std::map<std::string, Tensor> tensors = {{"a", random_tensor(DType::u8, {10}, 1)},
                                                 {"b", random_tensor(DType::u8, {1000}, 2)},
                                                 {"c", random_tensor(DType::u8, {10}, 3)}};
  SafetensorsWriter writer(folder.path(), plan_of(tensors), {}, 100);
  for (const auto& [name, tensor] : tensors) writer.add(name, tensor);
  writer.finish(1);
  EXPECT_EQ(SafetensorsFile(folder / "model-00002-of-00003.safetensors").tensors().size(), 1u);
}

TEST(SafetensorsWriter, WrongCalls) {
  const TempFolder folder;
  const Tensor tensor = random_tensor(DType::f32, {4, 4}, 1);
  const TensorInfo info{"a", DType::f32, {4, 4}};
  {
    SafetensorsWriter writer(folder.path(), {info, {"b", DType::u8, {1}}});
    EXPECT_HAS(error_of([&] { writer.add("c", tensor); }), "tensor 'c' is not in the plan");
    EXPECT_HAS(error_of([&] { writer.add("a", random_tensor(DType::f32, {16}, 1)); }),
               "tensor 'a' F32 [4, 4]: was planned so, got F32 [16]");
    EXPECT_HAS(error_of([&] { writer.add("a", random_tensor(DType::i32, {4, 4}, 1)); }), "got I32 [4, 4]");
    EXPECT_HAS(error_of([&] { writer.add("a", Tensor(DType::f32, {4, 4}, nullptr, nullptr)); }), "has no data");
    writer.add("a", tensor);
    EXPECT_HAS(error_of([&] { writer.add("a", tensor); }), "was added before");
    EXPECT_HAS(error_of([&] { writer.finish(1); }), "tensor 'b' U8 [1] is planned, but was not written");
  }
  EXPECT_EQ(folder.file_count(), 0u);
  const auto plan_error = [&](std::vector<TensorInfo> plan) {
    return error_of([&] { SafetensorsWriter writer(folder.path(), std::move(plan)); });
  };
  EXPECT_HAS(plan_error({info, info}), "tensor 'a' is planned twice");
  EXPECT_HAS(plan_error({{"__padding.0", DType::u8, {1}}}), "is reserved");
  EXPECT_HAS(plan_error({{"__metadata__", DType::u8, {1}}}), "is reserved");
  EXPECT_HAS(plan_error({{"a", DType::u8, {-1}}}), "has no valid size");
  EXPECT_HAS(plan_error({{"a\xff", DType::u8, {1}}}), "is not UTF-8");
  EXPECT_HAS(error_of([&] { SafetensorsWriter writer(folder / "none", {info}); }),
             "none/model.safetensors: cannot be written: No such file or directory");
  EXPECT_EQ(folder.file_count(), 0u);
}

TEST(SafetensorsWriter, LeavesNothingWhenDestroyedEarly) {
  const TempFolder folder;
  const auto tensors = varied_tensors();
  {
    SafetensorsWriter writer(folder.path(), plan_of(tensors), {}, 1000);
    writer.add("a.weight", tensors.at("a.weight"));
    EXPECT_GT(folder.file_count(), 1u);
  }
  EXPECT_EQ(folder.file_count(), 0u);
}

TEST(SafetensorsWriter, LeavesNothingWhenTheLastStepFails) {
  const TempFolder folder;
  const auto tensors = varied_tensors();
  // A folder in the place of the index: by then the shards have their final names.
  std::filesystem::create_directory(folder / "model.safetensors.index.json");
  {
    SafetensorsWriter writer(folder.path(), plan_of(tensors), {}, 1000);
    for (const auto& [name, tensor] : tensors) writer.add(name, tensor);
    EXPECT_HAS(error_of([&] { writer.finish(1); }), "model.safetensors.index.json: cannot be written: Is a directory");
  }
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(SafetensorsWriter, FullDiskAtThePlan) {
  const TempFolder folder;
  const FileSizeLimit limit(100'000);
  const std::string text = error_of([&] {
    SafetensorsWriter writer(folder.path(), {{"small", DType::u8, {64}}, {"big", DType::f32, {100'000}}}, {}, 1000);
  });
  EXPECT_HAS(text, "model-00002-of-00002.safetensors: cannot be written: File too large");
  EXPECT_EQ(folder.file_count(), 0u);
}

TEST(SafetensorsWriter, FullDiskAtAWrite) {
  const TempFolder folder;
  const Tensor tensor = random_tensor(DType::u8, {200'000}, 1);
  {
    SafetensorsWriter writer(folder.path(), {{"a", DType::u8, {200'000}}});
    {
      const FileSizeLimit limit(100'000);
      EXPECT_HAS(error_of([&] { writer.add("a", tensor); }), "model.safetensors: cannot be written: File too large");
    }
    EXPECT_HAS(error_of([&] { writer.finish(1); }), "was not written");
    writer.add("a", tensor);  // room again
    EXPECT_EQ(writer.bytes(), 200'000u);
  }
  EXPECT_EQ(folder.file_count(), 0u);
}

}  // namespace
}  // namespace turboquant
