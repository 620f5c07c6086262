// Checkpoints that MLX quantized, to run and to convert.
#include <gtest/gtest.h>

#include "convert/dense_source.h"
#include "convert/in_memory.h"
#include "io/error_of.h"
#include "io/mlx_quantization.h"
#include "io/temp_folder.h"
#include "models/summary.h"
#include "nn/linear.h"
#include "turboquant/convert.h"

namespace turboquant {
namespace {

const std::filesystem::path kMlx = kTestData / "mlx";
const std::vector<std::string> kModels = {"llama-4b", "llama-3b", "llama-8b", "gpt_oss-mxfp4-q4", "mixtral-3b"};

/// The weights that a checkpoint stands for in F32, decoded by the shapes alone.
TestCheckpoint decoded(const std::string& model) {
  const auto packed = open_checkpoint(kMlx / model);
  const auto shapes = dense_source(open_checkpoint(kMlx / model));
  TestCheckpoint plain(*shapes);
  for (const TensorInfo& info : shapes->tensors()) {
    const TensorInfo* stored = packed->find(info.name);
    if (stored == nullptr || stored->dtype != DType::u32) continue;
    const int64_t rows = info.shape[0], cols = info.shape[1];
    Tensor values = Tensor::zeros(DType::f32, info.shape);
    decode_rows(Loader(*packed).linear(std::string(module_of(info.name)), rows, cols).weight, 0, rows,
                values.data<float>());
    plain.set(info.name, values);
  }
  return plain;
}

// Codes, scales, biases, shapes and names: against the script, which is checked against MLX itself.
TEST(MlxSource, WeightsAreMlxs) {
  const nlohmann::json hashes = read_json(kMlx / "hashes.json");
  ASSERT_EQ(hashes.size(), kModels.size());
  for (const std::string& model : kModels) {
    SCOPED_TRACE(model);
    const TestCheckpoint plain = decoded(model);
    for (const auto& [name, hash] : hashes.at(model).items()) {
      ASSERT_NE(plain.find(name), nullptr) << name;
      EXPECT_EQ(plain.find(name)->dtype, DType::f32) << name;
      EXPECT_EQ(checksum(plain.read(name)), hash.get<std::string>()) << name;
    }
  }
}

TEST(MlxSource, RunsAsItsDecodedWeightsDo) {
  for (const std::string& model : kModels)
    for (const bool exact : {true, false}) {
      SCOPED_TRACE(model);
      const auto packed = open_checkpoint(kMlx / model);
      const TestCheckpoint plain = decoded(model);
      const std::vector<int32_t> tokens = random_tokens(40, 60, 3);
      const std::vector<float> logits = one_pass(*test_model(*packed, exact), tokens);
      EXPECT_TRUE(same_bits(logits, one_pass(*test_model(plain, exact), tokens)));
      double size = 0;
      for (const float x : logits) size += std::abs(x);
      EXPECT_GT(size, 1);
    }
}

TEST(MlxSource, DenseSourceRoundsToTheTypeOfTheScales) {
  for (const std::string& model : kModels) {
    SCOPED_TRACE(model);
    const auto dense = dense_source(open_checkpoint(kMlx / model));
    EXPECT_FALSE(dense->config().contains("quantization"));
    EXPECT_FALSE(dense->config().contains("quantization_config"));
    const TestCheckpoint plain = decoded(model);
    size_t matrices = 0;
    for (const TensorInfo& info : dense->tensors()) {
      EXPECT_TRUE(is_float(info.dtype)) << describe(info);
      if (info.shape.rank() != 2) continue;
      const Tensor values = dense->read(info.name), exact = to_float(plain.read(info.name));
      EXPECT_EQ(values.dtype(), info.dtype);
      EXPECT_EQ(values.shape(), info.shape);
      EXPECT_EQ(checksum(values), checksum(from_float(exact.data<float>(), info.shape, info.dtype))) << info.name;
      ++matrices;
    }
    EXPECT_GE(matrices, 8u);
  }
  const auto mxfp4 = dense_source(open_checkpoint(kMlx / "gpt_oss-mxfp4-q4"));
  EXPECT_EQ(describe(*mxfp4->find("model.layers.0.mlp.experts.2.down_proj.weight")),
            "'model.layers.0.mlp.experts.2.down_proj.weight' BF16 [64, 64]");
  EXPECT_EQ(dense_source(open_checkpoint(kMlx / "llama-3b"))->find("model.embed_tokens.weight")->dtype, DType::f16);
  EXPECT_EQ(dense_source(open_checkpoint(kMlx / "llama-8b"))->find("model.embed_tokens.weight")->dtype, DType::f32);
}

TEST(MlxSource, ConvertsAndSaysThatItIsNotTheOriginal) {
  for (const std::string& model : {std::string("llama-4b"), std::string("gpt_oss-mxfp4-q4"), std::string("mixtral-3b")})
    for (const char* format : {"tcq16", "original"}) {
      SCOPED_TRACE(model + " " + format);
      const TempFolder folder;
      ConvertOptions options;
      options.model = (kMlx / model).string();
      options.output = (folder / "out").string();
      options.format = format;
      options.bits = 4;
      std::string warning;
      options.on_message = [&](const std::string& line) {
        if (line.find("quantized already") != line.npos) warning = line;
      };
      convert(options);
      EXPECT_HAS(warning, model == "gpt_oss-mxfp4-q4" ? "(mxfp4)"
                          : model == "llama-4b"       ? "(affine 4 bits)"
                                                      : "(affine 3 bits)");
      EXPECT_HAS(warning, "the original weights give better results");
      const auto result = open_checkpoint(folder / "out");
      EXPECT_EQ(result->config().at("quantization").at("mode"), "turboquant");
      const std::vector<int32_t> tokens = random_tokens(40, 60, 3);
      const double error = relative_rms(one_pass(*test_model(*result, false), tokens),
                                        one_pass(*test_model(*open_checkpoint(kMlx / model), false), tokens));
      EXPECT_LT(error, 0.5);
      EXPECT_GT(error, 1e-3);
    }
}

TEST(MlxSource, OthersComeBackAsTheyAre) {
  auto plain = open_checkpoint(kTestData / "micro/llama");
  const Checkpoint* address = plain.get();
  EXPECT_EQ(dense_source(std::move(plain)).get(), address);
  auto turboquant = open_checkpoint(kTestData / "tq/llama-3b-g64");
  address = turboquant.get();
  EXPECT_EQ(dense_source(std::move(turboquant)).get(), address);
  // An entry in config.json, and nothing quantized: the conversion will refuse it.
  auto claims = std::make_unique<TestCheckpoint>(make_tiny_llama({}));
  claims->config()["quantization"] = {{"bits", 4}, {"group_size", 64}};
  address = claims.get();
  EXPECT_EQ(dense_source(std::move(claims)).get(), address);
}

TEST(MlxSource, SummaryCountsWeightsByLayout) {
  const Summary summary = summarize(*open_checkpoint(kMlx / "llama-4b"));
  std::map<std::string, uint64_t> tensors;
  for (const auto& [key, share] : summary.matrices) tensors[key.second] += share.tensors;
  EXPECT_EQ(tensors, (std::map<std::string, uint64_t>{
                         {"BF16", 1}, {"affine 4 bits", 5}, {"affine 5 bits", 1}, {"affine 6 bits", 1}}));
  for (const std::string& model : kModels) {
    uint64_t weights = 0;
    const auto dense = dense_source(open_checkpoint(kMlx / model));
    for (const TensorInfo& info : dense->tensors()) weights += static_cast<uint64_t>(info.shape.elements());
    EXPECT_EQ(summarize(*open_checkpoint(kMlx / model)).all.weights, weights) << model;
  }
}

TEST(MlxQuantization, LayoutsOfModules) {
  const nlohmann::json config = {
      {"quantization",
       {{"group_size", 32},
        {"bits", 4},
        {"mode", "mxfp4"},
        {"lm_head", false},
        {"language_model.model.layers.3.block_sparse_moe.switch_mlp.up_proj", {{"bits", 8}, {"group_size", 128}}},
        {"model.layers.0.mlp.router", {{"bits", 6}}}}}};
  const auto quantization = MlxQuantization::of(config, "here");
  ASSERT_TRUE(quantization);
  EXPECT_EQ(quantization->common().name(), "mxfp4");
  EXPECT_EQ(quantization->layout("model.layers.3.mlp.experts.up_proj").name(), "affine 8 bits");
  EXPECT_EQ(quantization->layout("model.layers.3.mlp.experts.up_proj").group_size, 128);
  EXPECT_EQ(quantization->layout("model.layers.0.mlp.router").bits, 6);
  EXPECT_EQ(quantization->layout("model.layers.0.mlp.router").group_size, 64);
  EXPECT_EQ(quantization->layout("model.layers.3.mlp.experts.down_proj").mode, "mxfp4");
  EXPECT_FALSE(MlxQuantization::of(nlohmann::json::object(), "here"));
  EXPECT_FALSE(MlxQuantization::of({{"quantization", {{"mode", "turboquant"}, {"bits", 3}}}}, "here"));
}

TEST(MlxQuantization, WhatIsNotReadIsNamed) {
  const auto error = [](const nlohmann::json& quantization) {
    return error_of([&] { MlxQuantization::of({{"quantization", quantization}}, "here"); });
  };
  EXPECT_EQ(error({{"mode", "nvfp4"}}),
            "here: config.json: quantization: mode 'nvfp4' is not supported; affine and mxfp4 are");
  EXPECT_EQ(error({{"bits", 7}}), "here: config.json: quantization: affine has no 7 bits in groups of 64");
  EXPECT_EQ(error({{"mode", "mxfp4"}, {"group_size", 64}}),
            "here: config.json: quantization: mxfp4 has no 4 bits in groups of 64");
  EXPECT_EQ(error({{"bits", 4}, {"lm_head", {{"bits", 4}, {"group_size", 48}}}}),
            "here: config.json: quantization of 'lm_head': affine has no 4 bits in groups of 48");
  EXPECT_HAS(error({{"bits", "four"}}), "here: config.json: 'bits' must be a whole number");
}

TEST(MlxSource, DamagedTensorsAreNamed) {
  const std::string q = "model.layers.0.self_attn.q_proj";
  const auto damaged = [&](auto change) {
    auto source = std::make_unique<TestCheckpoint>(*open_checkpoint(kMlx / "llama-4b"));
    change(*source);
    return source;
  };
  const auto plan_error = [&](auto change) { return error_of([&] { dense_source(damaged(change)); }); };
  const auto run_error = [&](auto change) { return error_of([&] { Loader(*damaged(change)).linear(q, 64, 64); }); };
  EXPECT_HAS(plan_error([&](TestCheckpoint& c) { c.config()["quantization"]["bits"] = 8; }),
             "does not go with scales [96, 1]: config.json says affine 8 bits in groups of 64");
  EXPECT_HAS(plan_error([&](TestCheckpoint& c) { c.config()["quantization"][q] = {{"mode", "mxfp4"}}; }), q);
  EXPECT_HAS(plan_error([&](TestCheckpoint& c) {
               c.set(q + ".scales", Tensor::zeros(DType::u8, {64, 1}));
             }),
             q + ".scales' U8 [64, 1]: has the wrong type");
  EXPECT_HAS(run_error([&](TestCheckpoint& c) {
               c.set(q + ".scales", Tensor::zeros(DType::i32, {64, 1}));
             }),
             "I32 is no type of scales");
  EXPECT_HAS(run_error([&](TestCheckpoint& c) {
               c.set(q + ".scales", Tensor::zeros(DType::u8, {64, 4}));
             }),
             "a floating-point format of MLX that is not supported");
  EXPECT_HAS(run_error([&](TestCheckpoint& c) {
               c.set(q + ".weight", Tensor::zeros(DType::u32, {64, 14}));
             }),
             "[64, 14] is no affine layout of 2, 3, 4, 5, 6 or 8 bits");
  EXPECT_HAS(run_error([&](TestCheckpoint& c) {
               c.set(q + ".weight", Tensor::zeros(DType::u32, {64, 9}));
             }),
             "[64, 9] is no affine layout");
  EXPECT_HAS(run_error([&](TestCheckpoint& c) { c.remove(q + ".biases"); }), q + ".biases': missing");
  EXPECT_HAS(error_of([&] {
               const auto dense = dense_source(damaged([&](TestCheckpoint& c) { c.remove(q + ".biases"); }));
               dense->read(q + ".weight");
             }),
             q + ".biases': missing");
}

}  // namespace
}  // namespace turboquant
