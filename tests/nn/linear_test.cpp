// Linear layers in every format that a checkpoint may store them in, and what is wrong with damaged ones.
#include "nn/linear.h"

#include <gtest/gtest.h>

#include <functional>

#include "core/half.h"
#include "io/error_of.h"
#include "models/test_checkpoint.h"
#include "nn/roles.h"
#include "ops/cpu/cpu_ops.h"
#include "quant/quantize.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

constexpr int64_t kRows = 40, kCols = 128;
const std::string kModule = "model.layers.0.self_attn.q_proj";
const std::string kSite = "model.layers.0.self_attn.qkv";

std::vector<float> weights() { return random_normal(5, kRows * kCols); }

/// The layer in a quantized format, its signs under the name that the format gives them.
TestCheckpoint quantized_layer(QuantSpec spec, bool rotated = true) {
  TestCheckpoint checkpoint;
  const bool tcq16 = spec.method == QuantSpec::Method::tcq16;
  checkpoint.config() = {{"quantization", {{"rotation", rotated ? "hadamard" : "none"}}}};
  const Rotation rotation = rotated ? make_rotation(kCols, 9) : Rotation();
  const Weight weight = quantize(from_float(weights().data(), {kRows, kCols}, DType::f32), rotation, spec, nullptr);
  checkpoint.set(kModule + ".weight", weight.data);
  checkpoint.set(kModule + ".scales", weight.scales);
  if (weight.codebook) checkpoint.set(kModule + ".codebook", weight.codebook);
  if (weight.biases) checkpoint.set(kModule + ".biases", weight.biases);
  if (!rotated) return checkpoint;
  Tensor signs = Tensor::zeros(DType::i8, {kCols});
  for (int64_t i = 0; i < kCols; ++i) signs.data<int8_t>()[i] = static_cast<int8_t>(rotation.signs.data<float>()[i]);
  checkpoint.set((tcq16 ? kSite : kModule) + ".signs",
                 tcq16 ? signs : from_float(rotation.signs.data<float>(), {kCols}, DType::f16));
  return checkpoint;
}

QuantSpec spec_of(QuantSpec::Method method, int bits, int group_size = 64) {
  return {method, bits, group_size, DType::f16};
}

/// The weights that a layer stands for: decoded and rotated back.
std::vector<float> plain_weights(const Linear& layer) {
  std::vector<float> values(static_cast<size_t>(layer.weight.rows * layer.weight.cols));
  decode_rows(layer.weight, 0, layer.weight.rows, values.data());
  if (layer.rotation)
    for (int64_t r = 0; r < layer.weight.rows; ++r)
      rotate_inverse(layer.rotation, values.data() + r * layer.weight.cols, values.data() + r * layer.weight.cols);
  return values;
}

double error_of_weights(const std::vector<float>& w) {
  const std::vector<float> expected = weights();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    difference += (w[i] - expected[i]) * (w[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return difference / norm;
}

std::string load_error(const TestCheckpoint& checkpoint) {
  return error_of([&] { Loader(checkpoint).linear(kModule, kRows, kCols); });
}

/// Relative squared errors of Gaussian weights, as docs/format.md lists them, with a margin for the small sample.
TEST(Linear, EveryFormatGivesTheWeightsBack) {
  struct Format {
    QuantSpec spec;
    double error;
  };
  const Format formats[] = {
      {spec_of(QuantSpec::Method::tcq16, 2), 0.0666},       {spec_of(QuantSpec::Method::tcq16, 3), 0.0160},
      {spec_of(QuantSpec::Method::tcq16, 4), 0.00398},      {spec_of(QuantSpec::Method::tcq16, 8), 0.00005},
      {spec_of(QuantSpec::Method::original, 2), 0.1146},    {spec_of(QuantSpec::Method::original, 3), 0.0335},
      {spec_of(QuantSpec::Method::original, 4, 32), 0.009}, {spec_of(QuantSpec::Method::affine, 4), 0.009},
      {spec_of(QuantSpec::Method::affine, 8, 128), 0.00004}};
  for (const Format& format : formats)
    for (const bool rotated : {true, false}) {
      const bool affine = format.spec.method == QuantSpec::Method::affine;
      if (affine && rotated) continue;
      const TestCheckpoint checkpoint = quantized_layer(format.spec, rotated);
      const Linear layer = Loader(checkpoint).linear(kModule, kRows, kCols);
      EXPECT_EQ(layer.weight.bits, format.spec.bits);
      EXPECT_EQ(static_cast<bool>(layer.rotation), rotated);
      EXPECT_FALSE(static_cast<bool>(layer.bias));
      const double error = error_of_weights(plain_weights(layer));
      EXPECT_LT(error, 1.5 * format.error) << format.spec.bits << " bits";
      EXPECT_GT(error, 0.3 * format.error) << format.spec.bits << " bits";
    }
}

TEST(Linear, DenseTypesAndBias) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    TestCheckpoint checkpoint;
    checkpoint.config() = nlohmann::json::object();
    checkpoint.set(kModule + ".weight", from_float(weights().data(), {kRows, kCols}, dtype));
    checkpoint.set(kModule + ".bias", from_float(weights().data(), {kRows}, dtype));
    const Linear layer = Loader(checkpoint).linear(kModule, kRows, kCols);
    EXPECT_EQ(layer.weight.kind, Weight::Kind::dense);
    EXPECT_EQ(layer.bias.dtype(), DType::f32);
    EXPECT_LT(error_of_weights(plain_weights(layer)), 1e-5);
  }
}

// q, k and v share signs and so one rotation of their input; o has its own.
TEST(Linear, LayersOfOneInputShareTheirSigns) {
  TestCheckpoint checkpoint = quantized_layer(spec_of(QuantSpec::Method::tcq16, 3));
  for (const char* other : {"k_proj", "o_proj"})
    for (const char* part : {".weight", ".scales"})
      checkpoint.set("model.layers.0.self_attn." + std::string(other) + part, checkpoint.read(kModule + part));
  checkpoint.set("model.layers.0.self_attn.o_proj.signs", checkpoint.read(kSite + ".signs"));
  Loader loader(checkpoint);
  const Linear q = loader.linear(kModule, kRows, kCols);
  const Linear k = loader.linear("model.layers.0.self_attn.k_proj", kRows, kCols);
  const Linear o = loader.linear("model.layers.0.self_attn.o_proj", kRows, kCols);
  EXPECT_EQ(q.rotation.signs.data<float>(), k.rotation.signs.data<float>());
  EXPECT_NE(q.rotation.signs.data<float>(), o.rotation.signs.data<float>());
}

TEST(Linear, ProductsAreThoseOfTheDecodedWeights) {
  const std::vector<float> x = random_normal(8, 5 * kCols);
  const Tensor input = from_float(x.data(), {5, kCols}, DType::f32);
  for (const auto method : {QuantSpec::Method::tcq16, QuantSpec::Method::original, QuantSpec::Method::affine}) {
    TestCheckpoint checkpoint = quantized_layer(spec_of(method, 3), method != QuantSpec::Method::affine);
    checkpoint.set(kModule + ".bias", from_float(weights().data(), {kRows}, DType::f32));
    const Linear layer = Loader(checkpoint).linear(kModule, kRows, kCols);
    const std::vector<float> w = plain_weights(layer);
    const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
    for (const bool exact : {true, false}) {
      ops->begin_scope();
      const std::vector<Tensor> y = project(*ops, input, {&layer, &layer}, exact);
      ASSERT_EQ(y.size(), 2u);
      for (const Tensor& result : y)
        for (int64_t t = 0; t < 5; ++t)
          for (int64_t r = 0; r < kRows; ++r) {
            double expected = weights()[static_cast<size_t>(r)];
            for (int64_t c = 0; c < kCols; ++c)
              expected +=
                  static_cast<double>(x[static_cast<size_t>(t * kCols + c)]) * w[static_cast<size_t>(r * kCols + c)];
            ASSERT_NEAR(result.data<float>()[t * kRows + r], expected, exact ? 1e-4 : 0.6);
          }
    }
  }
}

struct Damage {
  const char* title;
  std::function<void(TestCheckpoint&)> damage;
  const char* expected;
};

void expect_errors(const TestCheckpoint& good, const std::vector<Damage>& cases) {
  ASSERT_NO_THROW(Loader(good).linear(kModule, kRows, kCols));
  for (const Damage& c : cases) {
    SCOPED_TRACE(c.title);
    TestCheckpoint bad(good);
    c.damage(bad);
    const std::string error = load_error(bad);
    EXPECT_HAS(error, c.expected);
    EXPECT_HAS(error, "test-model: tensor 'model.layers.0.self_attn.");
  }
}

void set_zeros(TestCheckpoint& checkpoint, const std::string& part, DType dtype, const Shape& shape) {
  checkpoint.set(kModule + part, Tensor::zeros(dtype, shape));
}

TEST(Linear, DamagedTcq16) {
  const TestCheckpoint good = quantized_layer(spec_of(QuantSpec::Method::tcq16, 3));
  expect_errors(
      good,
      {{"no weight", [](auto& c) { c.remove(kModule + ".weight"); }, ".weight': missing"},
       {"no scales", [](auto& c) { c.remove(kModule + ".scales"); }, ".scales': missing"},
       {"no signs", [](auto& c) { c.remove(kSite + ".signs"); }, "qkv.signs': missing"},
       {"no block layout",
        [](auto& c) {
          set_zeros(c, ".weight", DType::u8, {3, 8, 100});
        },
        "[3, 8, 100] is no block"},
       {"rank 2",
        [](auto& c) {
          set_zeros(c, ".weight", DType::u8, {3, 104});
        },
        "is no block layout"},
       {"too few tiles",
        [](auto& c) {
          set_zeros(c, ".weight", DType::u8, {2, 8, 104});
        },
        "U8 [2, 8, 104], expected U8 [3, 8, 104]"},
       {"wrong width",
        [](auto& c) {
          set_zeros(c, ".weight", DType::u8, {3, 7, 104});
        },
        "expected U8 [3, 8, 104]"},
       {"scales of another type", [](auto& c) { set_zeros(c, ".scales", DType::f32, {kRows}); }, "expected F16 [40]"},
       {"too few scales", [](auto& c) { set_zeros(c, ".scales", DType::f16, {kRows - 1}); },
        "F16 [39], expected F16 [40]"},
       {"scale is NaN", [](auto& c) { c.poke(kModule + ".scales", 3, NAN); }, ".scales': contains NaN"},
       {"scale is infinite", [](auto& c) { c.poke(kModule + ".scales", 39, INFINITY); },
        ".scales': contains NaN or Inf"},
       {"too few signs", [](auto& c) { c.set(kSite + ".signs", Tensor::zeros(DType::i8, {kCols / 2})); },
        "I8 [64], expected I8 [128]"},
       {"signs are zero", [](auto& c) { c.set(kSite + ".signs", Tensor::zeros(DType::i8, {kCols})); },
        "signs must be +1 or -1"},
       {"signs of no number type", [](auto& c) { c.set(kSite + ".signs", Tensor::zeros(DType::i32, {kCols})); },
        "expected F32, F16 or BF16, got I32"}});
}

TEST(Linear, DamagedOriginal) {
  const TestCheckpoint good = quantized_layer(spec_of(QuantSpec::Method::original, 3));
  expect_errors(
      good,
      {{"no scales", [](auto& c) { c.remove(kModule + ".scales"); }, ".scales': missing"},
       {"no signs", [](auto& c) { c.remove(kModule + ".signs"); }, "q_proj.signs': missing"},
       {"codebook of 5", [](auto& c) { set_zeros(c, ".codebook", DType::f16, {5}); }, "[5] is no codebook"},
       {"codebook of 2 bits", [](auto& c) { set_zeros(c, ".codebook", DType::f16, {4}); }, "expected U32 [40, 8]"},
       {"codebook of floats", [](auto& c) { set_zeros(c, ".codebook", DType::f32, {8}); }, "expected F16 [8]"},
       {"words missing",
        [](auto& c) {
          set_zeros(c, ".weight", DType::u32, {kRows, 12});
        },
        "expected U32 [40, 13]"},
       {"rows missing",
        [](auto& c) {
          set_zeros(c, ".weight", DType::u32, {kRows - 1, 13});
        },
        "expected U32 [40, 13]"},
       {"weight of rank 1", [](auto& c) { set_zeros(c, ".weight", DType::u32, {kRows * 13}); }, "does not divide"},
       {"three groups",
        [](auto& c) {
          set_zeros(c, ".scales", DType::f16, {kRows, 3});
        },
        "does not divide rows of 128"},
       {"no groups",
        [](auto& c) {
          set_zeros(c, ".scales", DType::f16, {kRows, 0});
        },
        "does not divide rows of 128"},
       {"scales of other rows",
        [](auto& c) {
          set_zeros(c, ".scales", DType::f16, {kRows + 1, 2});
        },
        "expected F16 [40, 2]"}});
}

TestCheckpoint layer_with_qjl() {
  QuantSpec spec = spec_of(QuantSpec::Method::original, 3);
  TestCheckpoint checkpoint = quantized_layer(spec);
  spec.qjl = true;
  const Weight weight =
      quantize(from_float(weights().data(), {kRows, kCols}, DType::f32), make_rotation(kCols, 9), spec, nullptr);
  checkpoint.set(kModule + ".qjl_packed", weight.qjl.bits);
  checkpoint.set(kModule + ".qjl_norms", weight.qjl.norms);
  checkpoint.set(kModule + ".qjl_signs", from_float(weight.qjl.rotation.signs.data<float>(), {kCols}, DType::f16));
  return checkpoint;
}

TEST(Linear, QjlIsTakenOrLeft) {
  const TestCheckpoint checkpoint = layer_with_qjl();
  const Linear with = Loader(checkpoint).linear(kModule, kRows, kCols);
  const Linear without = Loader(checkpoint, false).linear(kModule, kRows, kCols);
  EXPECT_TRUE(static_cast<bool>(with.weight.qjl));
  EXPECT_FALSE(static_cast<bool>(without.weight.qjl));
  EXPECT_NEAR(error_of_weights(plain_weights(with)) / error_of_weights(plain_weights(without)), 0.571, 0.06);
}

TEST(Linear, DamagedQjl) {
  expect_errors(
      layer_with_qjl(),
      {{"no norms", [](auto& c) { c.remove(kModule + ".qjl_norms"); }, ".qjl_norms': missing"},
       {"no signs", [](auto& c) { c.remove(kModule + ".qjl_signs"); }, ".qjl_signs': missing"},
       {"words missing",
        [](auto& c) {
          set_zeros(c, ".qjl_packed", DType::u32, {kRows, 3});
        },
        "U32 [40, 3], expected U32 [40, 4]"},
       {"bits of another type",
        [](auto& c) {
          set_zeros(c, ".qjl_packed", DType::f32, {kRows, 4});
        },
        "expected U32"},
       {"norms missing", [](auto& c) { set_zeros(c, ".qjl_norms", DType::f16, {kRows - 1}); }, "expected F16 [40]"},
       {"norm is NaN", [](auto& c) { c.poke(kModule + ".qjl_norms", 3, NAN); }, ".qjl_norms': contains NaN or Inf"},
       {"signs are zero", [](auto& c) { set_zeros(c, ".qjl_signs", DType::f16, {kCols}); }, "signs must be +1 or -1"}});
}

TEST(Linear, DamagedAffine) {
  const TestCheckpoint good = quantized_layer(spec_of(QuantSpec::Method::affine, 4), false);
  expect_errors(good, {{"no biases", [](auto& c) { c.remove(kModule + ".biases"); }, ".biases': missing"},
                       {"biases of another type",
                        [](auto& c) {
                          set_zeros(c, ".biases", DType::f32, {kRows, 2});
                        },
                        "expected F16 [40, 2]"},
                       {"16 bits",
                        [](auto& c) {
                          set_zeros(c, ".weight", DType::u32, {kRows, 64});
                        },
                        "is no affine layout"},
                       {"1 bit",
                        [](auto& c) {
                          set_zeros(c, ".weight", DType::u32, {kRows, 4});
                        },
                        "is no affine layout"},
                       {"no words",
                        [](auto& c) {
                          set_zeros(c, ".weight", DType::u32, {kRows, 0});
                        },
                        "is no affine layout"}});
}

TEST(Roles, OfTensors) {
  EXPECT_EQ(role_of("model.layers.11.self_attn.q_proj.weight"), Role::linear);
  EXPECT_EQ(role_of("model.layers.0.mlp.down_proj.weight"), Role::linear);
  EXPECT_EQ(role_of("model.embed_tokens.weight"), Role::embedding);
  EXPECT_EQ(role_of("lm_head.weight"), Role::head);
  for (const char* other :
       {"model.norm.weight", "model.layers.0.self_attn.q_proj.bias", "model.layers.0.input_layernorm.weight", "q_proj",
        "weight", "", ".weight", "model.layers.0.self_attn.rotary_emb.inv_freq"})
    EXPECT_EQ(role_of(other), Role::other) << other;
  EXPECT_EQ(module_of("a.b.weight"), "a.b");
  EXPECT_EQ(module_of("a.b.bias"), "");
  EXPECT_EQ(input_site("x.self_attn.k_proj"), input_site("x.self_attn.v_proj"));
  EXPECT_NE(input_site("x.self_attn.k_proj"), input_site("y.self_attn.k_proj"));
  EXPECT_EQ(input_site("x.mlp.gate_proj"), input_site("x.mlp.up_proj"));
  EXPECT_NE(input_site("x.mlp.gate_proj"), input_site("x.mlp.down_proj"));
  EXPECT_EQ(input_site("lm_head"), "lm_head");
}

// Copies are made where the backend has an order of its own and they leave half of the memory.
TEST(Repacking, WhereItPaysAndFits) {
  TestCheckpoint checkpoint = quantized_layer(spec_of(QuantSpec::Method::tcq16, 3));
  const Weight weight = Loader(checkpoint).linear(kModule, kRows, kCols).weight;
  EXPECT_FALSE(weight.repacked);
  for (const CpuLevel level : available_cpu_levels()) {
    CpuOps ops(std::make_shared<ThreadPool>(1), level);
    const size_t bytes = (weight.data.bytes() + 63) / 64 * 64;
    EXPECT_FALSE(Repacking(checkpoint, ops, 2 * bytes - 1).of(weight)) << name(level);
    EXPECT_EQ(static_cast<bool>(Repacking(checkpoint, ops, 2 * bytes).of(weight)), ops.repacks()) << name(level);
    for (const bool table : {false, true}) {
      const Linear layer = Loader(checkpoint, true, &ops).linear(kModule, kRows, kCols, table);
      EXPECT_EQ(static_cast<bool>(layer.weight.repacked), ops.repacks() && !table) << name(level);
    }
  }
}

}  // namespace
}  // namespace turboquant
