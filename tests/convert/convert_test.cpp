// convert(): from a folder to a folder that appears whole or not at all.
#include "turboquant/convert.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "convert/in_memory.h"
#include "core/sanitized.h"
#include "io/error_of.h"
#include "io/temp_folder.h"
#include "nn/linear.h"

namespace turboquant {
namespace {

namespace fs = std::filesystem;

ConvertOptions options_for(const fs::path& model, const fs::path& output) {
  ConvertOptions options;
  options.model = model.string();
  options.output = output.string();
  options.threads = 2;
  return options;
}

ConvertOptions micro_to(const fs::path& output) { return options_for(kTestData / "micro/llama", output); }

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

TEST(Convert, FolderEqualsTheConversionInMemory) {
  const auto source = open_checkpoint(kTestData / "micro/llama");
  const std::vector<int32_t> tokens = Golden(kTestData / "micro/llama").input_ids[0];
  for (const char* format : {"tcq16", "original"})
    for (const int bits : kSanitized ? std::vector<int>{3} : std::vector<int>{2, 3, 4}) {
      SCOPED_TRACE(std::string(format) + " " + std::to_string(bits));
      const TempFolder folder;
      ConvertOptions options = micro_to(folder / "out");
      options.format = format;
      options.bits = bits;
      const ConvertResult result = convert(options);
      const auto reopened = open_checkpoint(folder / "out");
      const auto memory = converted(*source, conversion_spec(options));
      expect_same_tensors(*reopened, *memory);
      EXPECT_EQ(reopened->config(), memory->config());
      // Every layer decodes alike from the mapped file and from memory.
      Loader from_file(*reopened), from_memory(*memory);
      for (const TensorInfo& info : source->tensors()) {
        if (role_of(info.name) != Role::linear) continue;
        const int64_t rows = info.shape[0], cols = info.shape[1];
        const std::string module(module_of(info.name));
        std::vector<float> a(static_cast<size_t>(rows * cols)), b(a.size());
        decode_rows(from_file.linear(module, rows, cols).weight, 0, rows, a.data());
        decode_rows(from_memory.linear(module, rows, cols).weight, 0, rows, b.data());
        EXPECT_TRUE(same_bits(a, b)) << module;
      }
      for (const bool exact : {true, false})
        EXPECT_TRUE(
            same_bits(one_pass(*test_model(*reopened, exact), tokens), one_pass(*test_model(*memory, exact), tokens)));

      uint64_t bytes = 0;
      for (const TensorInfo& info : reopened->tensors()) bytes += info.bytes();
      EXPECT_EQ(result.bytes, bytes);
      EXPECT_EQ(result.parameters, 1230528u);
      EXPECT_EQ(result.linear_layers, 28);
      EXPECT_DOUBLE_EQ(result.bits_per_weight, 8.0 * static_cast<double>(bytes) / 1230528.0);
      EXPECT_DOUBLE_EQ(result.bits_per_weight_linear,
                       Conversion(*source, conversion_spec(options)).bits_per_weight_linear());
      EXPECT_GT(result.seconds, 0);
    }
}

TEST(Convert, FilesOfTheFolder) {
  const TempFolder folder;
  fs::copy(kTestData / "micro/llama", folder / "source");
  write_text(folder / "source/generation_config.json", "{\"eos_token_id\": [0, 2]}\n");
  write_text(folder / "source/chat_template.jinja", "{{ messages }}\n");
  write_text(folder / "source/notes.txt", "not copied");
  std::vector<std::string> messages;
  ConvertOptions options = options_for(folder / "source", folder / "new/parents/out/");  // a slash at the end
  options.on_message = [&](const std::string& line) { messages.push_back(line); };
  convert(options);
  const fs::path out = folder / "new/parents/out";
  EXPECT_EQ(names_in(folder / "new/parents"), (std::set<std::string>{"out"}));
  EXPECT_EQ(names_in(out),
            (std::set<std::string>{"README.md", "chat_template.jinja", "config.json", "generation_config.json",
                                   "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
                                   "tokenizer_config.json"}));
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"})
    EXPECT_EQ(read_text(out / name), read_text(folder / "source" / name)) << name;
  const nlohmann::json index = read_json(out / "model.safetensors.index.json");
  EXPECT_EQ(index.at("weight_map").size(), open_checkpoint(out)->tensors().size());
  EXPECT_EQ(index.at("metadata").at("total_parameters"), 1230528);
  EXPECT_HAS(read_text(out / "README.md"), "source in 3 bits");
  ASSERT_FALSE(messages.empty());
  EXPECT_EQ(messages.back(), "Model saved to " + out.string());
  for (const std::string& line : messages) EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(Convert, EveryTensorLiesAligned) {
  const TempFolder folder;
  convert(micro_to(folder / "out"));
  const SafetensorsFile file(folder / "out/model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "turboquant");
  const auto start = reinterpret_cast<uintptr_t>(file.tensor(file.tensors().front().name).data<char>()) % 64;
  for (const TensorInfo& info : file.tensors())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.tensor(info.name).data<char>()) % 64, start) << info.name;
}

TEST(Convert, TwoConversionsAreEqualByteByByte) {
  for (const char* format : {"tcq16", "original"}) {
    const TempFolder folder;
    const auto run = [&](const char* name, int threads) {
      ConvertOptions options = micro_to(folder / name);
      options.format = format;
      options.threads = threads;
      convert(options);
    };
    run("a", 1);
    run("b", 1);
    run("c", 3);
    EXPECT_EQ(names_in(folder / "b"), names_in(folder / "a"));
    for (const std::string& name : names_in(folder / "a"))
      for (const char* other : {"b", "c"})
        EXPECT_EQ(read_text(folder / "a" / name) == read_text(folder / other / name), true)
            << format << ": " << other << "/" << name;
  }
}

TEST(Convert, Dtype) {
  const TempFolder folder;
  ConvertOptions options = micro_to(folder / "out");
  options.dtype = "float32";
  options.head_bits = 16;
  convert(options);
  const auto result = open_checkpoint(folder / "out");
  EXPECT_EQ(result->find("model.norm.weight")->dtype, DType::f32);
  EXPECT_EQ(result->find("model.embed_tokens.weight")->dtype, DType::f32);
  EXPECT_EQ(result->find("model.layers.0.mlp.up_proj.scales")->dtype, DType::f16);
  EXPECT_EQ(result->config().at("dtype"), "float32");
  EXPECT_EQ(result->config().at("quantization").at("head_bits"), 16);
}

TEST(Convert, RotationNone) {
  const TempFolder folder;
  ConvertOptions options = micro_to(folder / "none");
  options.rotation = "none";
  options.bits = 4;
  convert(options);
  const auto result = open_checkpoint(folder / "none");
  EXPECT_EQ(result->config().at("quantization").at("rotation"), "none");
  Loader loader(*result);
  const Linear layer = loader.linear("model.layers.0.mlp.up_proj", 320, 192);
  EXPECT_FALSE(static_cast<bool>(layer.rotation));
  const Tensor before = to_float(open_checkpoint(kTestData / "micro/llama")->read("model.layers.0.mlp.up_proj.weight"));
  std::vector<float> after(320 * 192);
  decode_rows(layer.weight, 0, 320, after.data());
  EXPECT_LT(relative_rms(after, std::span(before.data<float>(), after.size())), 0.08);  // sqrt of 0.004, and a margin
  const Golden golden(kTestData / "micro/llama");
  EXPECT_LT(relative_rms(one_pass(*test_model(*result, false), golden.input_ids[0]), golden.logits[0]), 0.6);
}

TEST(Convert, BlockwiseHadamardIsHadamard) {
  const TempFolder folder;
  ConvertOptions options = micro_to(folder / "a");
  convert(options);
  options.output = (folder / "b").string();
  options.rotation = "blockwise_hadamard";
  convert(options);
  expect_same_tensors(*open_checkpoint(folder / "a"), *open_checkpoint(folder / "b"));
}

TEST(Convert, WidthsThatDoNotFitAreSkippedWithAWarning) {
  TinyLlama tiny;
  tiny.hidden = 72;
  const TempFolder folder;
  make_tiny_llama(tiny).write(folder / "source");
  std::vector<std::string> warnings;
  ConvertOptions options = options_for(folder / "source", folder / "out");
  options.on_message = [&](const std::string& line) {
    if (line.starts_with("Warning: ")) warnings.push_back(line);
  };
  const ConvertResult result = convert(options);
  EXPECT_EQ(result.linear_layers, 2 * 2);  // o_proj and down_proj
  ASSERT_EQ(warnings.size(), 2u * 5u + 1u);
  EXPECT_EQ(warnings[0],
            "Warning: Skipping model.embed_tokens: its width 72 is not divisible by 16; it stays as it is");
  const auto converted_model = open_checkpoint(folder / "out");
  EXPECT_EQ(converted_model->find("model.layers.0.self_attn.q_proj.weight")->dtype, DType::f32);
  EXPECT_EQ(converted_model->find("model.layers.0.self_attn.o_proj.weight")->dtype, DType::u8);
  const std::vector<int32_t> tokens = random_tokens(8, tiny.vocab, 1);
  EXPECT_LT(relative_rms(one_pass(*test_model(*converted_model, false), tokens),
                         one_pass(*test_model(*open_checkpoint(folder / "source"), false), tokens)),
            0.5);
}

TEST(Convert, ExistingOutputIsLeftAlone) {
  const TempFolder folder;
  fs::create_directory(folder / "out");
  write_text(folder / "out/precious.txt", "mine");
  EXPECT_HAS(error_of([&] { convert(micro_to(folder / "out")); }), "out: exists already; choose another output folder");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"out"}));
  EXPECT_EQ(names_in(folder / "out"), (std::set<std::string>{"precious.txt"}));
  EXPECT_EQ(read_text(folder / "out/precious.txt"), "mine");

  fs::create_directory(folder / "empty");
  EXPECT_HAS(error_of([&] { convert(micro_to(folder / "empty")); }), "exists already");
  write_text(folder / "file", "mine");
  EXPECT_HAS(error_of([&] { convert(micro_to(folder / "file")); }), "exists already");
  EXPECT_HAS(error_of([&] { convert(micro_to(folder / "file/out")); }), "cannot create the output folder");
  EXPECT_EQ(read_text(folder / "file"), "mine");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"empty", "file", "out"}));
}

TEST(Convert, AFailureInTheMiddleLeavesNothing) {
  const TempFolder folder;
  TestCheckpoint damaged(*open_checkpoint(kTestData / "micro/llama"));
  damaged.poke("model.layers.3.self_attn.v_proj.weight", 100, NAN);  // the last but the norm
  damaged.write(folder / "source");
  for (const char* format : {"tcq16", "original"}) {
    ConvertOptions options = options_for(folder / "source", folder / "new/out");
    options.format = format;
    const std::string error = error_of([&] { convert(options); });
    EXPECT_HAS(error, "source: tensor 'model.layers.3.self_attn.v_proj.weight' contains NaN");
    EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"source"}));
  }
}

TEST(Convert, BadSourcesLeaveNothing) {
  const TempFolder folder;
  const auto error_with = [&](const fs::path& source) {
    return error_of([&] { convert(options_for(source, folder / "out")); });
  };
  EXPECT_HAS(error_with(folder / "nothing"), "nothing: no such file or folder");
  EXPECT_HAS(error_with(kTestData / "tq/llama-3b-g64"), "the model is compressed already");
  TestCheckpoint other = make_tiny_llama({});
  other.config()["model_type"] = "perceiver";
  other.write(folder / "perceiver");
  EXPECT_HAS(error_with(folder / "perceiver"), "model_type 'perceiver' is not supported");
  convert(micro_to(folder / "once"));
  EXPECT_HAS(error_with(folder / "once"), "the model is compressed already; convert the original weights");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"once", "perceiver"}));
}

TEST(Convert, BadOptions) {
  const TempFolder folder;
  struct Case {
    void (*change)(ConvertOptions&);
    const char* expected;
  };
  const Case cases[] = {
      {[](ConvertOptions& o) { o.bits = 9; }, "--bits 9: use 2, 3, 4 or 8, or any average"},
      {[](ConvertOptions& o) { o.bits = 1; }, "--bits 1: use"},
      {[](ConvertOptions& o) { o.bits = std::nan(""); }, "--bits nan: use"},
      {[](ConvertOptions& o) { o.bits = 5, o.format = "mlx"; }, "--bits 5: this format has 2, 3 or 4"},
      {[](ConvertOptions& o) { o.bits = -3; }, "--bits -3: use"},
      {[](ConvertOptions& o) { o.group_size = 48; }, "--group-size 48: use 32, 64 or 128"},
      {[](ConvertOptions& o) { o.group_size = 0; }, "--group-size 0"},
      {[](ConvertOptions& o) { o.rotation = "givens"; },
       "--rotation givens: unknown; use hadamard, blockwise_hadamard or none"},
      {[](ConvertOptions& o) { o.rotation = ""; }, "--rotation "},
      {[](ConvertOptions& o) { o.dtype = "float64"; }, "--dtype float64: use float16, bfloat16 or float32"},
      {[](ConvertOptions& o) { o.format = "gguf"; }, "--format gguf: unknown; use tcq16 or mlx"},
      {[](ConvertOptions& o) { o.use_qjl = true; },
       "--use-qjl: not in tcq16, where one more bit is worth more in the codebook (--bits): it leaves 0.28 of the "
       "error"},
      {[](ConvertOptions& o) { o.python_hash_seed = 7; }, "--python-hash-seed: of --format mlx only"},
      {[](ConvertOptions& o) { o.format = "affine"; }, "--format affine: unknown; use tcq16 or mlx"},
      {[](ConvertOptions& o) { o.head_bits = 3; }, "--head-bits 3: use 4, 8, or 16"},
      {[](ConvertOptions& o) { o.output = ""; }, "no output folder given"},
  };
  for (const Case& c : cases) {
    ConvertOptions options = micro_to(folder / "out");
    c.change(options);
    try {
      convert(options);
      ADD_FAILURE() << "no error, expected: " << c.expected;
    } catch (const UsageError& error) {
      EXPECT_HAS(std::string(error.what()), c.expected);
    }
    EXPECT_EQ(folder.file_count(), 0u);
  }
}

TEST(Convert, OptionsBecomeASpec) {
  ConvertOptions options;
  options.bits = 4;
  options.group_size = 128;
  options.rotation_seed = 5;
  options.dtype = "bfloat16";
  ConversionSpec spec = conversion_spec(options);
  EXPECT_EQ(spec.linear.method, QuantSpec::Method::tcq16);
  EXPECT_EQ(spec.linear.bits, 4);
  EXPECT_EQ(spec.rotation_seed, 5u);
  EXPECT_EQ(spec.dtype, DType::bf16);
  EXPECT_TRUE(spec.rotate);
  EXPECT_EQ(spec.head_bits, 8);
  options.format = "original";
  options.rotation = "none";
  options.dtype = "";
  spec = conversion_spec(options);
  EXPECT_EQ(spec.linear.method, QuantSpec::Method::original);
  EXPECT_EQ(spec.linear.group_size, 128);
  EXPECT_FALSE(spec.rotate);
  EXPECT_EQ(spec.dtype, std::nullopt);
  EXPECT_EQ(quant_spec("affine", 2, 32).method, QuantSpec::Method::affine);
}

}  // namespace
}  // namespace turboquant
