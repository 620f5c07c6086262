// Conversion from weights to weights: the original's bytes, sizes, what stays, what runs afterwards.
#include "convert/conversion.h"

#include <gtest/gtest.h>

#include <mutex>

#include "convert/in_memory.h"
#include "io/error_of.h"
#include "models/batch_invariance.h"
#include "models/reference_model.h"
#include "nn/linear.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

std::unique_ptr<Checkpoint> micro() { return open_checkpoint(kTestData / "micro/llama"); }

TEST(Conversion, WritesTheOriginalsFile) {
  const auto original = open_checkpoint(kTestData / "tq/llama-3b-g64");
  const auto source = micro();
  const auto ours = converted(*source, spec_of("original", 3));
  expect_same_tensors(*ours, *original);
  EXPECT_EQ(ours->config().at("quantization"), original->config().at("quantization"));
  EXPECT_EQ(ours->config().at("quantization_config"), original->config().at("quantization_config"));
}

// The seed decides the signs, and with them every code.
TEST(Conversion, SeedsDiffer) {
  const auto source = micro();
  ConversionSpec spec = spec_of("tcq16", 3);
  const auto a = converted(*source, spec);
  spec.rotation_seed = 43;
  const auto b = converted(*source, spec);
  for (const char* name : {"model.layers.0.self_attn.qkv.signs", "model.layers.0.self_attn.q_proj.weight"})
    EXPECT_NE(checksum(a->read(name)), checksum(b->read(name))) << name;
}

TEST(Conversion, SizesOfTcq16) {
  const auto source = micro();
  for (const int bits : {2, 3, 4}) {
    const Conversion conversion(*source, spec_of("tcq16", bits));
    const auto result = convert_in_memory(*source, conversion, *two_threads());
    EXPECT_TRUE(conversion.warnings().empty());
    EXPECT_EQ(conversion.linear_layers(), 28);
    double bytes = 0, weights = 0;
    for (const TensorInfo& info : source->tensors()) {
      if (role_of(info.name) != Role::linear) continue;
      const std::string module(module_of(info.name));
      const auto elements = static_cast<double>(info.shape.elements());
      const size_t packed = result->read(module + ".weight").bytes() + result->read(module + ".scales").bytes();
      // Exactly bits + 0.25, and one fp16 scale a row.
      EXPECT_DOUBLE_EQ(8.0 * static_cast<double>(packed) / elements,
                       bits + 0.25 + 16.0 / static_cast<double>(info.shape[1]))
          << info.name;
      bytes += static_cast<double>(packed);
      weights += elements;
    }
    EXPECT_DOUBLE_EQ(conversion.bits_per_weight_linear(), 8 * bytes / weights);
    // The tied embedding: a byte a weight and a scale a row.
    EXPECT_EQ(result->read("model.embed_tokens.weight").bytes(), 512u * 192u);
    EXPECT_EQ(result->read("model.embed_tokens.scales").bytes(), 2u * 512u);
    uint64_t total = 0;
    for (const TensorInfo& info : result->tensors()) total += info.bytes();
    EXPECT_EQ(result->size_on_disk(), total);
  }
}

TEST(Conversion, RowsAreFilledUpToWholeTiles) {
  TinyLlama tiny;
  tiny.intermediate = 80 + 7;  // rows of gate and up: 6 tiles
  const TestCheckpoint source = make_tiny_llama(tiny);
  const Conversion conversion(source, spec_of("tcq16", 3));
  const auto result = convert_in_memory(source, conversion, *two_threads());
  EXPECT_EQ(result->find("model.layers.0.mlp.up_proj.weight")->shape, (Shape{6, 4, 104}));
  EXPECT_EQ(result->find("model.layers.0.mlp.up_proj.scales")->shape, (Shape{87}));
  // down_proj reads 87 values: no whole groups.
  ASSERT_EQ(conversion.warnings().size(), 2u);
  EXPECT_EQ(conversion.warnings()[0],
            "Skipping model.layers.0.mlp.down_proj: its width 87 is not divisible by 16; it stays as it is");
  EXPECT_EQ(conversion.linear_layers(), 12);
}

TEST(Conversion, PlansWhatItMakes) {
  TinyLlama tiny;
  tiny.tied = false;
  tiny.attention_bias = true;
  tiny.hidden = 128;
  tiny.intermediate = 192;
  const TestCheckpoint source = make_tiny_llama(tiny);
  for (const char* format : {"tcq16", "original", "affine"})
    for (const bool rotate : {true, false})
      for (const int head_bits : {8, 16}) {
        ConversionSpec spec = spec_of(format, 3);
        spec.rotate = rotate;
        spec.head_bits = head_bits;
        const Conversion conversion(source, spec);
        std::map<std::string, std::string> planned, made;
        for (const TensorInfo& info : conversion.outputs()) planned[info.name] = describe(info);
        EXPECT_EQ(planned.size(), conversion.outputs().size());
        std::mutex mutex;
        conversion.run(*two_threads(), [&](const std::string& name, const Tensor& tensor) {
          const std::lock_guard lock(mutex);
          EXPECT_TRUE(made.emplace(name, describe({name, tensor.dtype(), tensor.shape()})).second) << name << " twice";
        });
        EXPECT_EQ(made, planned);
      }
}

TEST(Conversion, SignsAreSharedByLayersOfOneInput) {
  const auto source = micro();
  const auto signs = [](const Checkpoint& checkpoint) {
    std::vector<std::string> names;
    for (const TensorInfo& info : checkpoint.tensors())
      if (info.name.ends_with(".signs") && info.name.find(".layers.1.") != std::string::npos)
        names.push_back(info.name + " " + std::string(name(info.dtype)));
    return names;
  };
  const std::string layer = "model.layers.1.";
  EXPECT_EQ(signs(*converted(*source, spec_of("tcq16", 3))),
            (std::vector<std::string>{layer + "mlp.down_proj.signs I8", layer + "mlp.gate_up.signs I8",
                                      layer + "self_attn.o_proj.signs I8", layer + "self_attn.qkv.signs I8"}));
  EXPECT_EQ(signs(*converted(*source, spec_of("original", 3))).size(), 7u);  // a layer each, as there
  EXPECT_TRUE(signs(*converted(*source, spec_of("affine", 3))).empty());
  ConversionSpec spec = spec_of("tcq16", 3);
  spec.rotate = false;
  EXPECT_TRUE(signs(*converted(*source, spec)).empty());
}

TEST(Conversion, ConfigSaysWhatWasDone) {
  TestCheckpoint source(*micro());
  source.config()["_name_or_path"] = "/home/somebody/model";
  ConversionSpec spec = spec_of("tcq16", 4);
  spec.rotation_seed = 7;
  const nlohmann::json config = Conversion(source, spec).config();
  const nlohmann::json expected = {{"mode", "turboquant"}, {"format", "tcq16"}, {"bits", 4},
                                   {"group_size", 16},     {"head_bits", 8},    {"rotation", "hadamard"},
                                   {"rotation_seed", 7}};
  EXPECT_EQ(config.at("quantization"), expected);
  EXPECT_EQ(config.at("quantization_config"), expected);
  EXPECT_EQ(config.at("dtype"), "bfloat16");
  EXPECT_FALSE(config.contains("_name_or_path"));
  for (const auto& [key, value] : source.config().items())
    if (key != "_name_or_path") {
      EXPECT_EQ(config.at(key), value) << key;
    }

  spec.rotate = false;
  spec.dtype = DType::f32;
  const nlohmann::json plain = Conversion(source, spec).config();
  EXPECT_EQ(plain.at("quantization").at("rotation"), "none");
  EXPECT_EQ(plain.at("dtype"), "float32");
  source.config().erase("dtype");
  EXPECT_EQ(Conversion(source, spec).config().at("torch_dtype"), "float32");
}

TEST(Conversion, OtherTensorsStay) {
  const auto source = micro();
  for (const std::optional<DType> dtype : {std::optional<DType>(), {DType::f32}, {DType::f16}, {DType::bf16}}) {
    ConversionSpec spec = spec_of("tcq16", 2);
    spec.dtype = dtype;
    spec.head_bits = 16;
    const auto result = converted(*source, spec);
    for (const char* name :
         {"model.norm.weight", "model.layers.2.input_layernorm.weight", "model.embed_tokens.weight"}) {
      const Tensor before = to_float(source->read(name)), stored = result->read(name), after = to_float(stored);
      EXPECT_EQ(stored.dtype(), dtype.value_or(DType::bf16));
      ASSERT_EQ(after.shape(), before.shape());
      for (int64_t i = 0; i < before.elements(); ++i)
        ASSERT_NEAR(after.data<float>()[i], before.data<float>()[i], 1e-3 * std::abs(before.data<float>()[i]) + 1e-7)
            << name;
      if (!dtype || *dtype == DType::bf16) {
        EXPECT_EQ(checksum(stored), checksum(source->read(name))) << name;
      }
    }
  }
}

TEST(Conversion, EmbeddingAndHead) {
  TinyLlama tiny;
  tiny.tied = false;
  const TestCheckpoint source = make_tiny_llama(tiny);
  const auto dtypes = [&](const char* format, int head_bits) {
    ConversionSpec spec = spec_of(format, 2, 32);
    spec.head_bits = head_bits;
    const auto result = converted(source, spec);
    return std::string(name(result->find("model.embed_tokens.weight")->dtype)) + " " +
           std::string(name(result->find("lm_head.weight")->dtype));
  };
  EXPECT_EQ(dtypes("tcq16", 8), "U8 U8");
  EXPECT_EQ(dtypes("tcq16", 16), "F32 F32");
  EXPECT_EQ(dtypes("original", 8), "F32 U32");  // the original compresses an untied head like any linear layer
  EXPECT_EQ(dtypes("affine", 8), "F32 U32");
}

TEST(Conversion, RefusedSources) {
  const TestCheckpoint good = make_tiny_llama({});
  const auto error_with = [&](auto change, const std::string& format = "tcq16") {
    TestCheckpoint source(good);
    change(source);
    return error_of([&] { converted(source, spec_of(format, 3)); });
  };
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  for (const char* key : {"quantization", "quantization_config"})
    EXPECT_HAS(error_with([&](TestCheckpoint& c) {
                 c.config()[key] = {{"bits", 4}};
               }),
               "test-model: config.json has '" + std::string(key) + "': the model is compressed already");
  const auto quantized = open_checkpoint(kTestData / "tq/llama-3b-g64");
  EXPECT_HAS(error_of([&] { Conversion(*quantized, spec_of("tcq16", 3)); }), "compressed already");
  for (const char* format : {"tcq16", "original", "affine"}) {
    EXPECT_HAS(error_with([&](TestCheckpoint& c) { c.poke(q, 17, NAN); }, format),
               "test-model: tensor '" + q + "' contains NaN");
    EXPECT_HAS(error_with([&](TestCheckpoint& c) { c.poke(q, 99, -INFINITY); }, format),
               "test-model: tensor '" + q + "' contains infinity");
  }
  EXPECT_HAS(error_with([&](TestCheckpoint& c) { c.set(q, Tensor::zeros(DType::i32, {64, 64})); }), q);
  EXPECT_HAS(error_with([&](TestCheckpoint& c) { c.set(q, Tensor::zeros(DType::f32, {64, 8, 8})); }), q);
  TinyLlama narrow;
  narrow.hidden = narrow.intermediate = 40;
  narrow.head_dim = 10;
  const TestCheckpoint misfit = make_tiny_llama(narrow);
  EXPECT_HAS(error_of([&] { Conversion(misfit, spec_of("tcq16", 3)); }),
             "test-model: no linear layer to compress: Skipping model.embed_tokens: its width 40");
}

// Rotation of inputs, of embeddings and of heads, signs by name, int8: a compressed model computes what its own
// weights, decompressed, give in the plain reference.
TEST(Conversion, CompressedModelsComputeWithTheirWeights) {
  TinyLlama tiny{128, 192, 2, 4, 2, 48, 80};
  tiny.attention_bias = tiny.mlp_bias = true;
  for (const bool tied : {true, false}) {
    tiny.tied = tied;
    const TestCheckpoint source = make_tiny_llama(tiny);
    const std::vector<int32_t> tokens = random_tokens(30, tiny.vocab, 6);
    for (const char* format : {"tcq16", "original", "affine"})
      for (const bool rotate : {true, false}) {
        SCOPED_TRACE(std::string(format) + (rotate ? ", rotated" : ", not rotated") + (tied ? ", tied" : ", untied"));
        ConversionSpec spec = spec_of(format, 4);
        spec.rotate = rotate;
        const auto result = converted(source, spec);
        std::vector<double> expected;
        const TestCheckpoint plain = decompressed(*result, source);
        for (const auto& row : ReferenceModel(plain).logits(tokens))
          expected.insert(expected.end(), row.begin(), row.end());
        EXPECT_LT(relative_rms(one_pass(*test_model(*result, true), tokens), expected), 1e-5);
        EXPECT_LT(relative_rms(one_pass(*test_model(*result, false), tokens), expected), 0.05);
      }
  }
}

TEST(Conversion, CompressedModelsAreCloseToTheirSource) {
  const auto source = micro();
  const Golden golden(kTestData / "micro/llama");
  const auto error = [&](const char* format, int bits, bool rotate = true) {
    ConversionSpec spec = spec_of(format, bits);
    spec.rotate = rotate;
    return relative_rms(one_pass(*test_model(*converted(*source, spec), false), golden.input_ids[0]), golden.logits[0]);
  };
  const double two = error("tcq16", 2), three = error("tcq16", 3), four = error("tcq16", 4);
  EXPECT_LT(four, 0.6 * three);
  EXPECT_LT(three, 0.7 * two);
  EXPECT_LT(three, error("original", 3));
  EXPECT_LT(four, error("original", 4));
  EXPECT_LT(four, error("affine", 4));
  EXPECT_LT(error("tcq16", 4, false), 1.5 * four);  // random weights: rotation neither helps nor hurts
}

TEST(Conversion, SameBitsInAnyBatch) {
  const auto source = micro();
  for (const int bits : {2, 3, 4}) {
    SCOPED_TRACE(std::to_string(bits) + " bits");
    expect_batch_invariance(*converted(*source, spec_of("tcq16", bits)), false, DType::f16);
  }
}

// Where weights are decoded to floating point, a smaller model does.
TEST(Conversion, SameBitsInAnyBatchWithoutInt8) {
  const TestCheckpoint source = make_tiny_llama({128, 192, 2, 4, 2, 48, 80});
  expect_batch_invariance(*converted(source, spec_of("tcq16", 3)), true, DType::f32);
  expect_batch_invariance(*converted(source, spec_of("original", 3)), false, DType::f16);
  ConversionSpec qjl = spec_of("original", 2);
  qjl.linear.qjl = true;
  expect_batch_invariance(*converted(source, qjl), false, DType::f16);
  expect_batch_invariance(*converted(source, spec_of("affine", 4)), false, DType::f32);
}

}  // namespace
}  // namespace turboquant
