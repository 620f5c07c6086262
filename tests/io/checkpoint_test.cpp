#include "io/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "io/error_of.h"
#include "io/safetensors.h"
#include "io/temp_folder.h"
#include "io/test_data.h"

namespace turboquant {
namespace {

Tensor counting(int64_t n) {
  Tensor tensor = Tensor::zeros(DType::f32, {n});
  for (int64_t i = 0; i < n; ++i) tensor.data<float>()[i] = static_cast<float>(i);
  return tensor;
}

// Two shards: 'a' in the first, 'b' and 'c' in the second.
void write_sharded(const std::filesystem::path& folder) {
  write_text(folder / "config.json", R"({"model_type": "llama"})");
  SafetensorsWriter writer(folder, {{"a", DType::f32, {30}}, {"b", DType::f32, {20}}, {"c", DType::f32, {5}}}, {}, 120);
  writer.add("a", counting(30));
  writer.add("b", counting(20));
  writer.add("c", counting(5));
  writer.finish(55);
}

void write_index(const std::filesystem::path& folder, const std::string& weight_map) {
  write_text(folder / "model.safetensors.index.json", "{\"metadata\": {}, \"weight_map\": " + weight_map + "}");
}

std::string open_error(const std::filesystem::path& path) {
  return error_of([&] { open_checkpoint(path); });
}

TEST(Checkpoint, OpensAHuggingFaceFolder) {
  const auto model = open_checkpoint(kTestData / "micro/llama");
  EXPECT_EQ(model->path(), kTestData / "micro/llama");
  EXPECT_EQ(model->config().at("model_type"), "llama");
  const auto hidden = model->config().at("hidden_size").get<int64_t>();
  const auto vocab = model->config().at("vocab_size").get<int64_t>();
  const TensorInfo* embedding = model->find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->shape, (Shape{vocab, hidden}));
  EXPECT_EQ(model->find("model.embed_tokens"), nullptr);
  EXPECT_TRUE(std::is_sorted(model->tensors().begin(), model->tensors().end(),
                             [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; }));
  size_t bytes = 0;
  for (const TensorInfo& info : model->tensors()) {
    const Tensor tensor = model->read(info.name);
    EXPECT_EQ(tensor.dtype(), info.dtype);
    EXPECT_EQ(tensor.shape(), info.shape);
    EXPECT_EQ(tensor.bytes(), info.bytes());
    bytes += info.bytes();
    if (!is_float(info.dtype)) continue;
    const Tensor values = to_float(tensor);
    for (int64_t i = 0; i < values.elements(); ++i) ASSERT_LT(std::abs(values.data<float>()[i]), 1e4f) << info.name;
  }
  EXPECT_EQ(model->size_on_disk(), std::filesystem::file_size(kTestData / "micro/llama/model.safetensors"));
  EXPECT_LT(bytes, model->size_on_disk());
  EXPECT_GT(bytes, model->size_on_disk() * 9 / 10);
  EXPECT_HAS(error_of([&] { model->read("model.nothing"); }), "micro/llama: no tensor 'model.nothing'");
}

TEST(Checkpoint, FilesOfTheFolder) {
  const TempFolder folder;
  std::filesystem::copy(kTestData / "micro/llama", folder.path(), std::filesystem::copy_options::recursive);
  write_text(folder / "chat_template.jinja", "{{ messages }}\n");
  const auto model = open_checkpoint(folder.path());
  EXPECT_EQ(model->file("tokenizer.json"), read_text(kTestData / "micro/llama/tokenizer.json"));
  EXPECT_EQ(model->file("chat_template.jinja"), "{{ messages }}\n");
  EXPECT_EQ(model->file("chat_template.json"), std::nullopt);
  EXPECT_EQ(model->file("generation_config.json"), std::nullopt);
  EXPECT_EQ(model->file(""), std::nullopt);
  EXPECT_EQ(model->file(".."), std::nullopt);
  EXPECT_EQ(model->file("../" + folder.path().filename().string() + "/config.json"), std::nullopt);
  std::filesystem::create_directory(folder / "special_tokens_map.json");
  EXPECT_HAS(error_of([&] { model->file("special_tokens_map.json"); }), "special_tokens_map.json: is a folder");
}

TEST(Checkpoint, OpensShards) {
  const TempFolder folder;
  write_sharded(folder.path());
  const auto model = open_checkpoint(folder.path());
  ASSERT_EQ(model->tensors().size(), 3u);
  EXPECT_EQ(model->tensors()[2].name, "c");
  for (const TensorInfo& info : model->tensors()) {
    const Tensor tensor = model->read(info.name);
    const Tensor expected = counting(info.shape[0]);
    EXPECT_EQ(std::memcmp(tensor.data<float>(), expected.data<float>(), expected.bytes()), 0);
  }
  EXPECT_EQ(model->size_on_disk(), std::filesystem::file_size(folder / "model-00001-of-00002.safetensors") +
                                       std::filesystem::file_size(folder / "model-00002-of-00002.safetensors"));
}

TEST(Checkpoint, ShardsMayBeLinks) {  // as in the cache of Hugging Face's hub
  const TempFolder blobs;
  const TempFolder folder;
  write_sharded(blobs.path());
  for (const auto& entry : std::filesystem::directory_iterator(blobs.path()))
    std::filesystem::create_symlink(entry.path(), folder / entry.path().filename().string());
  EXPECT_EQ(open_checkpoint(folder.path())->read("c").elements(), 5);
}

TEST(Checkpoint, DamagedFolders) {
  struct Case {
    const char* title;
    void (*damage)(const std::filesystem::path&);
    const char* expected;
  };
  static constexpr const char* kFirst = "model-00001-of-00002.safetensors";
  static constexpr const char* kSecond = "model-00002-of-00002.safetensors";
  static constexpr const char* kIndex = "model.safetensors.index.json";
  const Case cases[] = {
      {"no config", [](const auto& f) { std::filesystem::remove(f / "config.json"); },
       ": not a model folder: it has no config.json"},
      {"no config beside a GGUF file",
       [](const auto& f) {
         std::filesystem::remove(f / "config.json");
         write_text(f / "x.gguf", "");
       },
       "for its GGUF file give "},
      {"config is no JSON", [](const auto& f) { write_text(f / "config.json", "{\"a\":\n1,}"); },
       "config.json: not valid JSON: parse error at line 2, column 3"},
      {"config is empty", [](const auto& f) { write_text(f / "config.json", ""); }, "config.json: not valid JSON"},
      {"config is a list", [](const auto& f) { write_text(f / "config.json", "[]"); },
       "config.json: expected a JSON object, got array"},
      {"config is deep", [](const auto& f) { write_text(f / "config.json", std::string(1000000, '[')); },
       "config.json: JSON nested deeper than 100 levels"},
      {"config is a folder",
       [](const auto& f) {
         std::filesystem::remove(f / "config.json");
         std::filesystem::create_directory(f / "config.json");
       },
       "config.json: is a folder"},
      {"no weights", [](const auto& f) { std::filesystem::remove(f / kIndex); },
       "holds neither model.safetensors nor model.safetensors.index.json; model-00001-of-00002.safetensors is not"},
      {"weights in another form",
       [](const auto& f) {
         for (const char* name : {kIndex, kFirst, kSecond}) std::filesystem::remove(f / name);
         write_text(f / "pytorch_model.bin", "x");
       },
       "; pytorch_model.bin is not read from a folder"},
      {"nothing but config",
       [](const auto& f) {
         for (const char* name : {kIndex, kFirst, kSecond}) std::filesystem::remove(f / name);
       },
       "; the weights were not downloaded"},
      {"first shard missing", [](const auto& f) { std::filesystem::remove(f / kFirst); },
       "model-00001-of-00002.safetensors: missing; model.safetensors.index.json places 1 tensors there"},
      {"second shard missing", [](const auto& f) { std::filesystem::remove(f / kSecond); },
       "model-00002-of-00002.safetensors: missing; model.safetensors.index.json places 2 tensors there"},
      {"shard cut", [](const auto& f) { std::filesystem::resize_file(f / kSecond, 200); },
       "model-00002-of-00002.safetensors: "},
      {"shard empty", [](const auto& f) { std::filesystem::resize_file(f / kSecond, 0); },
       "model-00002-of-00002.safetensors: is empty"},
      {"shards swapped",
       [](const auto& f) {
         std::filesystem::copy_file(f / kFirst, f / kSecond, std::filesystem::copy_options::overwrite_existing);
       },
       "model-00002-of-00002.safetensors: tensor 'b' is missing, but model.safetensors.index.json places it there"},
      {"index is no JSON", [](const auto& f) { write_text(f / kIndex, "{"); },
       "index.json: not valid JSON: parse error at line 1"},
      {"index is a list", [](const auto& f) { write_text(f / kIndex, "[]"); }, "has no weight_map object"},
      {"index without map", [](const auto& f) { write_text(f / kIndex, "{}"); }, "has no weight_map object"},
      {"map is a list", [](const auto& f) { write_index(f, "[]"); }, "has no weight_map object"},
      {"shard is a number", [](const auto& f) { write_index(f, R"({"a": 1})"); },
       "weight_map of tensor 'a': expected a file name, got number"},
      {"shard leads up", [](const auto& f) { write_index(f, R"({"a": "../x.safetensors"})"); },
       "'../x.safetensors' is not the name of a file in this folder"},
      {"shard is absolute", [](const auto& f) { write_index(f, R"({"a": "/etc/passwd"})"); },
       "'/etc/passwd' is not the name"},
      {"shard with a backslash", [](const auto& f) { write_index(f, R"({"a": "..\\x"})"); }, "is not the name"},
      {"shard is the folder", [](const auto& f) { write_index(f, R"({"a": "."})"); }, "'.' is not the name"},
      {"shard is the parent", [](const auto& f) { write_index(f, R"({"a": ".."})"); }, "'..' is not the name"},
      {"shard is empty", [](const auto& f) { write_index(f, R"({"a": ""})"); }, "'' is not the name"},
      {"shard with NUL", [](const auto& f) { write_index(f, R"({"a": "x\u0000y"})"); }, "'x?y' is not the name"},
      {"shard is no safetensors file", [](const auto& f) { write_index(f, R"({"a": "config.json"})"); },
       "config.json: header of "},
      {"shard with a very long name",
       [](const auto& f) { write_index(f, "{\"a\": \"" + std::string(5000, 'n') + "\"}"); },
       "cannot be read: File name"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.title);
    const TempFolder folder;
    write_sharded(folder.path());
    c.damage(folder.path());
    const std::string text = open_error(folder.path());
    EXPECT_TRUE(text.starts_with(folder.path().string())) << text;
    EXPECT_HAS(text, c.expected);
  }
}

TEST(Checkpoint, NotAModel) {
  const TempFolder folder;
  EXPECT_HAS(open_error(folder / "none"), "/none: no such file or folder");
  EXPECT_HAS(open_error(""), ": no such file or folder");
  write_text(folder / "x.txt", "text");
  EXPECT_HAS(open_error(folder / "x.txt"), "x.txt: not a model: give a folder");
  EXPECT_HAS(open_error(folder / "x.txt/y"), "x.txt/y: no such file or folder");
  EXPECT_HAS(open_error("/dev/null"), "/dev/null: not a model");
  EXPECT_HAS(open_error(folder.path()), "it has no config.json");
  EXPECT_HAS(open_error(kTestData / "micro/llama/model.safetensors"), "not a model: give a folder");
  if (::geteuid() == 0) return;  // root looks into everything
  std::filesystem::create_directory(folder / "locked");
  write_text(folder / "locked/config.json", "{}");
  std::filesystem::permissions(folder / "locked", std::filesystem::perms::none);
  EXPECT_HAS(open_error(folder / "locked"), "Permission denied");
  std::filesystem::permissions(folder / "locked", std::filesystem::perms::owner_all);
}

TEST(Checkpoint, SmallHelpers) {
  EXPECT_EQ(describe({"model.norm.weight", DType::bf16, {576}}), "'model.norm.weight' BF16 [576]");
  EXPECT_EQ(describe({"s\n", DType::f32, {}}), "'s?' F32 []");
  EXPECT_EQ(checked_bytes(DType::f32, {3, 5}), 60u);
  EXPECT_EQ(checked_bytes(DType::f64, {}), 8u);
  EXPECT_EQ(checked_bytes(DType::f64, {0, 5}), 0u);
  EXPECT_EQ(checked_bytes(DType::u8, {-1}), std::nullopt);
  EXPECT_EQ(checked_bytes(DType::u8, {0, -1}), std::nullopt);
  EXPECT_EQ(checked_bytes(DType::u8, {INT64_MAX}), static_cast<uint64_t>(INT64_MAX));
  EXPECT_EQ(checked_bytes(DType::f16, {INT64_MAX}), std::nullopt);
  EXPECT_EQ(checked_bytes(DType::u8, {int64_t{1} << 32, int64_t{1} << 32}), std::nullopt);
}

}  // namespace
}  // namespace turboquant
