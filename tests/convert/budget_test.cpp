// Budgets of whole conversions: an average over the linear layers, or the size of the files.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>
#include <set>

#include "convert/in_memory.h"
#include "convert/sensitivity.h"
#include "io/error_of.h"
#include "io/temp_folder.h"
#include "models/summary.h"
#include "quant/quantize.h"
#include "quant/tile.h"
#include "turboquant/convert.h"

namespace turboquant {
namespace {

ConversionSpec average(double bits, const std::vector<std::string>& bits_for = {}) {
  ConversionSpec spec;
  set_precision(spec, average_budget(bits), "", bits_for);
  return spec;
}

ConversionSpec size(uint64_t bytes, const std::vector<std::string>& bits_for = {}) {
  ConversionSpec spec;
  set_precision(spec, size_budget(bytes), "", bits_for);
  return spec;
}

/// Bits of a matrix that will be written; 16 if it stays.
int bits_of(const Conversion& conversion, const std::string& module) {
  for (const TensorInfo& info : conversion.outputs())
    if (info.name == module + ".weight")
      for (const int bits : {2, 3, 4, 8})
        if (info.dtype == DType::u8 && info.shape.back() == block_bytes(bits)) return bits;
  return 16;
}

double linear_bits(const Checkpoint& source, const ConversionSpec& spec) {
  return Conversion(source, spec).bits_per_weight_linear();
}

/// What linear layers take at a whole number of bits.
double uniform(const Checkpoint& source, int bits) {
  ConversionSpec spec;
  spec.linear.bits = bits;
  spec.bits_for = {{"*.self_attn.*", bits, false}};  // gpt_oss, too
  return linear_bits(source, spec);
}

TEST(Budget, AveragesAreKeptFromBelow) {
  for (const char* model : {"llama", "qwen2_moe", "qwen3_5", "gpt_oss_mxfp4"}) {
    SCOPED_TRACE(model);
    const auto source = open_checkpoint(kTestData / "micro" / model);
    const double two = uniform(*source, 2), bit = uniform(*source, 3) - two;
    double last = 0;
    for (const double bits : {2.1, 2.5, 3.25, 3.5, 3.75, 4.5, 6.0}) {
      const double stored = linear_bits(*source, average(bits)), expected = two + (bits - 2) * bit;
      EXPECT_LE(stored, expected + 1e-9) << bits;
      // Micro models have few matrices: what is left over is less than the smallest step of one of them.
      EXPECT_GT(stored, expected - 0.25) << bits;
      EXPECT_GT(stored, last) << bits;
      last = stored;
    }
    EXPECT_DOUBLE_EQ(linear_bits(*source, average(7.99)), uniform(*source, 8));
  }
}

TEST(Budget, WholeNumbersAreTheSameForAll) {
  for (const double bits : {2.0, 3.0, 4.0, 8.0}) EXPECT_FALSE(average_budget(bits)) << bits;
  for (const double bits : {2.5, 3.0001, 5.0, 7.0}) EXPECT_TRUE(average_budget(bits)) << bits;
  const auto source = open_checkpoint(kTestData / "micro/llama");
  ConvertOptions options;
  options.bits = 8;
  const Conversion conversion(*source, conversion_spec(options));
  EXPECT_EQ(conversion.linear_weights_by_bits().size(), 1u);
  EXPECT_EQ(bits_of(conversion, "model.layers.0.mlp.up_proj"), 8);
}

TEST(Budget, RulesStandAndCount) {
  const auto source = open_checkpoint(kTestData / "micro/llama");
  const Conversion conversion(*source, average(3.5, {"*.up_proj=8", "*.layers.0.*.o_proj=2", "*embed*=4"}));
  for (const char* layer : {"0", "1", "2", "3"})
    EXPECT_EQ(bits_of(conversion, "model.layers." + std::string(layer) + ".mlp.up_proj"), 8);
  EXPECT_EQ(bits_of(conversion, "model.layers.0.self_attn.o_proj"), 2);
  EXPECT_EQ(bits_of(conversion, "model.embed_tokens"), 4);
  EXPECT_LE(conversion.bits_per_weight_linear(), uniform(*source, 3) + 0.5);
  EXPECT_HAS(error_of([&] {
               Conversion(*source, average(2.5, {"*_proj=8", "*.o_proj=3"}));
             }),
             "llama: --bits 2.5 is too small beside what --bits-for fixes");
  // The average that the error names is one that will do.
  const std::string text = error_of([&] { Conversion(*source, average(2.5, {"*.mlp.*=8"})); });
  const double least = std::stod(text.substr(text.rfind(' ')));
  EXPECT_EQ(bits_of(Conversion(*source, average(least, {"*.mlp.*=8"})), "model.layers.0.mlp.up_proj"), 8);
  EXPECT_HAS(error_of([&] { Conversion(*source, average(least - 0.02, {"*.mlp.*=8"})); }), "is too small");
}

TEST(Budget, ExpertsOfALayerShareTheirBits) {
  const auto source = open_checkpoint(kTestData / "micro/qwen2_moe");
  std::set<int> seen;
  for (const double bits : {2.3, 2.6, 3.3}) {
    const Conversion conversion(*source, average(bits));
    const nlohmann::json quantization = conversion.config().at("quantization");
    for (const char* kind : {"gate_proj", "up_proj", "down_proj"}) {
      const std::string stack = "model.layers.2.mlp.experts.";
      const int first = bits_of(conversion, stack + "0." + kind);
      seen.insert(first);
      for (int expert = 1; source->find(stack + std::to_string(expert) + "." + kind + ".weight"); ++expert)
        EXPECT_EQ(bits_of(conversion, stack + std::to_string(expert) + "." + kind), first);
      EXPECT_EQ(quantization.contains(stack + kind), first != quantization.at("bits").get<int>());
    }
    EXPECT_EQ(bits_of(conversion, "model.layers.2.mlp.gate"), 16);  // the router
  }
  EXPECT_GT(seen.size(), 1u);
}

TEST(Budget, GptOssSpendsOnAttentionToo) {
  const auto source = open_checkpoint(kTestData / "micro/gpt_oss_mxfp4");
  BitsBudget budget = *average_budget(2.5);
  for (const TensorInfo& tensor : source->tensors())
    if (tensor.name.find("self_attn") != tensor.name.npos) budget.losses[std::string(module_of(tensor.name))] = 1e-9;
  ConversionSpec spec;
  set_precision(spec, budget, "", {});
  EXPECT_EQ(bits_of(Conversion(*source, spec), "model.layers.1.self_attn.q_proj"), 2);
}

TEST(Budget, MeasuredLossesReplaceThePrior) {
  const auto source = open_checkpoint(kTestData / "micro/llama");
  BitsBudget budget = *average_budget(2.4);
  for (const TensorInfo& tensor : source->tensors())
    if (role_of(tensor.name) == Role::linear) budget.losses[std::string(module_of(tensor.name))] = 0.001;
  budget.losses["model.layers.2.mlp.gate_proj"] = 10;
  ConversionSpec spec;
  set_precision(spec, budget, "", {});
  EXPECT_EQ(bits_of(Conversion(*source, spec), "model.layers.2.mlp.gate_proj"), 8);
  budget.losses["model.layers.2.mlp.gate_proj"] = 1e-9;
  set_precision(spec, budget, "", {});
  EXPECT_EQ(bits_of(Conversion(*source, spec), "model.layers.2.mlp.gate_proj"), 2);
}

TEST(Budget, FilesKeepWithinTheirSize) {
  for (const char* model : {"llama", "qwen2_moe"}) {
    SCOPED_TRACE(model);
    const TempFolder folder;
    ConvertOptions options;
    options.model = (kTestData / "micro" / model).string();
    const auto source = open_checkpoint(options.model);
    const std::string text = error_of([&] { Conversion(*source, size(1000)); });
    EXPECT_HAS(text, "--target-size of 1000 bytes is too small: the fewest bits take ");
    const uint64_t least = std::stoull(text.substr(text.find("take ") + 5));
    EXPECT_THROW(Conversion(*source, size(least - 1)), Error);
    uint64_t last = 0;
    for (const uint64_t bytes : {least, least + 50'000, least + 200'001}) {
      options.target_bytes = bytes;
      options.output = (folder / std::to_string(bytes)).string();
      convert(options);
      const uint64_t file = std::filesystem::file_size(folder / std::to_string(bytes) / "model.safetensors");
      EXPECT_LE(file, bytes);
      EXPECT_GT(file, bytes - 30'000);  // the largest of these small matrices, a bit more
      EXPECT_GT(file, last);
      last = file;
    }
    options.target_bytes = 1'000'000'000;  // more than there is to spend: the most bits
    const Conversion most(*source, conversion_spec(options));
    EXPECT_EQ(bits_of(most, "model.layers.0.self_attn.q_proj"), 8);
    EXPECT_EQ(bits_of(most, "model.embed_tokens"), 8);
    const auto embedding = [&](uint64_t target) {
      return bits_of(Conversion(*source, size(target)), "model.embed_tokens");
    };
    EXPECT_EQ(embedding(least), 4);
    EXPECT_EQ(bits_of(Conversion(*source, size(least + 500'000, {"*embed*=16"})), "model.embed_tokens"), 16);
  }
}

// Embedding lookups and products of the head read 4 bits as they read 8.
TEST(Budget, FourBitHeadsCompute) {
  for (const char* model : {"llama", "qwen2_moe"}) {  // tied, and apart
    SCOPED_TRACE(model);
    const auto source = open_checkpoint(kTestData / "micro" / model);
    ConvertOptions options;
    options.head_bits = 4;
    options.bits = 8;
    const auto result = converted(*source, conversion_spec(options));
    EXPECT_EQ(result->find("model.embed_tokens.weight")->shape.back(), block_bytes(4));
    const TestCheckpoint plain = decompressed(*result, *source);
    const std::vector<int32_t> tokens = random_tokens(24, 512, 5);
    const std::vector<float> expected = one_pass(*test_model(plain, true), tokens);
    EXPECT_LT(relative_rms(one_pass(*test_model(*result, true), tokens), expected), 1e-5);
    EXPECT_LT(relative_rms(one_pass(*test_model(*result, false), tokens), expected), 0.1);
    EXPECT_LT(relative_rms(expected, one_pass(*test_model(*source, true), tokens)), 0.4);
  }
}

TEST(Budget, WhatOptionsExclude) {
  const auto error = [](void (*change)(ConvertOptions&)) {
    ConvertOptions options;
    change(options);
    return error_of([&] { conversion_spec(options); });
  };
  EXPECT_HAS(error([](auto& o) { o.bits = 3.5, o.preset = "dense"; }), "--preset dense: a mix on top of one number");
  EXPECT_HAS(error([](auto& o) { o.target_bytes = 1 << 20, o.preset = "moe"; }), "--target-size chooses the bits");
  EXPECT_HAS(error([](auto& o) { o.bits = 3.5, o.format = "mlx"; }), "--bits 3.5: this format has 2, 3 or 4");
  EXPECT_HAS(error([](auto& o) { o.target_bytes = 1 << 20, o.format = "mlx"; }), "--target-size: this format has one");
  EXPECT_HAS(error([](auto& o) { o.bits = 1.9; }), "--bits 1.9: use 2, 3, 4 or 8, or any average from 2 to 8");
}

// The table of errors is that of the encoders.
TEST(Sensitivity, ErrorsAreTheFormats) {
  constexpr int64_t kRows = 64, kCols = 2048;
  std::vector<float> values(kRows * kCols);
  std::mt19937 numbers(3);
  std::normal_distribution<float> normal;
  for (float& value : values) value = normal(numbers);
  const Tensor w = from_float(values.data(), {kRows, kCols}, DType::f32);
  for (const int bits : {2, 3, 4, 8}) {
    QuantSpec spec;
    spec.bits = bits;
    std::vector<float> decoded(values.size());
    decode_rows(quantize(w, Rotation(), spec, nullptr), 0, kRows, decoded.data());
    double error = 0, power = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      error += std::pow(decoded[i] - values[i], 2);
      power += std::pow(values[i], 2);
    }
    // That of int8 rows grows with the width: the largest of more values sets the scale.
    EXPECT_NEAR(error / power, squared_error(bits), (bits == 8 ? 0.5 : 0.03) * squared_error(bits)) << bits;
  }
  EXPECT_EQ(squared_error(16), 0);
}

}  // namespace
}  // namespace turboquant
