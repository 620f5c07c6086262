// The operations of a mixture of experts, at every level that this processor has.
#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/support.h"
#include "quant/quantize.h"

namespace turboquant {
namespace {

Tensor noise(uint64_t seed, int64_t rows, int64_t cols, float scale = 1) {
  Tensor x = Tensor::zeros(DType::f32, {rows, cols});
  const std::vector<float> values = random_normal(seed, rows * cols);
  for (size_t i = 0; i < values.size(); ++i) x.data<float>()[i] = scale * values[i];
  return x;
}

std::vector<float> floats(const Tensor& x) { return {x.data<float>(), x.data<float>() + x.elements()}; }

Weight matrix(uint64_t seed, int64_t rows, int64_t cols, int bits) {
  const Tensor values = noise(seed, rows, cols);
  if (bits < 32) return quantize(values, {}, {QuantSpec::Method::tcq16, bits}, nullptr);
  Weight weight;
  weight.rows = rows;
  weight.cols = cols;
  weight.bits = 32;
  weight.data = values;
  return weight;
}

// Chosen tokens are what they would be if they had been prepared alone: products are equal to the last bit.
TEST(ExpertOps, ProductsOfGatheredTokens) {
  for (const CpuLevel level : available_cpu_levels())
    for (const int bits : {3, 8, 32}) {
      SCOPED_TRACE("level " + std::to_string(static_cast<int>(level)) + ", bits " + std::to_string(bits));
      CpuOps ops = ops_at(level, 2);
      const int64_t width = 96;
      const Tensor x = noise(1, 31, width);
      const Weight first = matrix(2, 40, width, bits), second = matrix(3, 17, width, bits);
      const Tensor bias = noise(4, 1, 17).reshape({17});
      for (const int64_t tokens : {1, 2, 31}) {
        const Activations all = ops.prepare(x.rows(0, tokens), {}, bits == 32);
        const std::vector<std::vector<int32_t>> choices = {{0},
                                                           {static_cast<int32_t>(tokens - 1)},
                                                           {static_cast<int32_t>(tokens - 1), 0, 0},
                                                           std::vector<int32_t>(13, 0)};
        for (const std::vector<int32_t>& chosen : choices) {
          const Activations some = ops.gather(all, chosen);
          Tensor out = ops.empty(DType::f32, {some.tokens, 17});
          const Product products[] = {{&all, {&first, nullptr}, {}}, {&some, {&second, &bias}, out}};
          const std::vector<Tensor> results = ops.matmul_each(products);
          EXPECT_EQ(results[1].data<float>(), out.data<float>());
          const Activations alone = ops.prepare(ops.gather_rows(x, chosen), {}, bits == 32);
          const Projection expected_first{&first, nullptr}, expected_second{&second, &bias};
          EXPECT_EQ(floats(results[0]), floats(ops.matmul(all, {&expected_first, 1}).front()));
          EXPECT_EQ(floats(results[1]), floats(ops.matmul(alone, {&expected_second, 1}).front()));
        }
      }
    }
}

TEST(ExpertOps, ProductsCheckTheirInputs) {
  CpuOps ops = ops_at(CpuLevel::scalar, 2);
  const Weight dense = matrix(1, 16, 32, 32), tiled = matrix(1, 16, 32, 3);
  const Activations x = ops.gather(ops.prepare(noise(2, 3, 32), {}, false), std::vector<int32_t>{1, 2});
  const auto message = [&](const Product& product) {
    try {
      ops.matmul_each({&product, 1});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message({&x, {&tiled, nullptr}, {}}), "no error");
  EXPECT_EQ(message({&x, {&dense, nullptr}, {}}),
            "matmul: this matrix wants floating-point activations, and is given int8 alone");
  EXPECT_EQ(message({&x, {&tiled, nullptr}, ops.empty(DType::f32, {3, 16})}),
            "matmul: out must be F32 [2, 16], got F32 [3, 16]");
  EXPECT_THROW(ops.gather(x, std::vector<int32_t>{2}), Error);
  EXPECT_THROW(ops.gather(x, std::vector<int32_t>{-1}), Error);
}

TEST(ExpertOps, ClampedSwiglu) {
  for (const CpuLevel level : available_cpu_levels()) {
    CpuOps ops = ops_at(level, 2);
    for (const int64_t width : {1, 5, 16, 37, 4200}) {
      const Tensor gate = noise(1, 3, width, 6), up = noise(2, 3, width, 6);
      const std::vector<float> result = floats(ops.clamped_swiglu(gate, up, 1.702F, 7));
      for (int64_t i = 0; i < gate.elements(); ++i) {
        const double g = std::min<double>(gate.data<float>()[i], 7), u = std::clamp<double>(up.data<float>()[i], -7, 7);
        const double expected = g / (1 + std::exp(-static_cast<double>(1.702F) * g)) * (u + 1);
        EXPECT_NEAR(result[static_cast<size_t>(i)], expected, 1e-6 + 1e-5 * std::abs(expected));
      }
    }
    Tensor gate = Tensor::zeros(DType::f32, {1, 4}), up = Tensor::zeros(DType::f32, {1, 4});
    const float gates[] = {1e30F, -1e30F, -60, std::nanf("")}, ups[] = {1e30F, 1, -1e30F, 1};
    std::copy_n(gates, 4, gate.data<float>());
    std::copy_n(ups, 4, up.data<float>());
    const std::vector<float> result = floats(ops.clamped_swiglu(gate, up, 1.702F, 7));
    EXPECT_NEAR(result[0], 56, 1e-3);
    EXPECT_NEAR(result[1], 0, 1e-20);
    EXPECT_NEAR(result[2], 0, 1e-20);
    EXPECT_TRUE(std::isnan(result[3]));
  }
}

TEST(ExpertOps, WeightedRows) {
  CpuOps ops = ops_at(cpu_level(), 2);
  const Tensor x = noise(1, 5, 3);
  const std::vector<int32_t> rows = {4, 0, 2, 2};
  const std::vector<float> weights = {0.5F, 2, -1, 3};
  const Tensor y = ops.weighted_rows(x, rows, weights, 2);
  ASSERT_EQ(y.shape(), (Shape{2, 3}));
  for (int64_t i = 0; i < 3; ++i) {
    const auto at = [&](int64_t row) { return x.data<float>()[row * 3 + i]; };
    EXPECT_FLOAT_EQ(y.data<float>()[i], 0.5F * at(4) + 2 * at(0));
    EXPECT_FLOAT_EQ(y.data<float>()[3 + i], -at(2) + 3 * at(2));
  }
  EXPECT_THROW(ops.weighted_rows(x, std::vector<int32_t>{5, 0}, std::vector<float>{1, 1}, 1), Error);
  EXPECT_THROW(ops.weighted_rows(x, rows, weights, 3), Error);
  EXPECT_THROW(ops.weighted_rows(x, rows, std::vector<float>{1}, 2), Error);
}

// A sink takes its share of the probability and gives nothing for it; one far below all scores changes nothing.
TEST(ExpertOps, AttentionSinks) {
  for (const CpuLevel level : available_cpu_levels())
    for (const int64_t length : {3, 600}) {
      CpuOps ops = ops_at(level, 2);
      AttentionShape shape{2, 1, 16, 0.25F, 0, {}};
      const int64_t pages = (length + ops.page_tokens() - 1) / ops.page_tokens();
      std::vector<Tensor> memory;
      std::vector<std::byte*> addresses;
      for (int64_t p = 0; p < pages; ++p) {
        memory.push_back(Tensor::zeros(DType::u8, {static_cast<int64_t>(ops.page_bytes(shape, DType::f32))}));
        addresses.push_back(memory.back().data<std::byte>());
      }
      const Tensor keys = noise(1, length, 16), values = noise(2, length, 16);
      ops.append_kv(keys, values, shape, {DType::f32, addresses, 0});
      for (const int64_t tokens : {1, 2}) {
        const Tensor queries = noise(3, tokens, 32);
        for (const float sink : {-1e4F, -1.0F, 2.0F, 40.0F}) {
          shape.sinks = Tensor::zeros(DType::f32, {2});
          shape.sinks.data<float>()[0] = sink;
          shape.sinks.data<float>()[1] = sink / 2;
          const Tensor out = ops.empty(DType::f32, queries.shape());
          ops.attention(queries, shape, {DType::f32, addresses, length}, out);
          for (int64_t row = 0; row < 2 * tokens; ++row) {
            const int64_t seen = length - tokens + row / 2 + 1;
            const float* q = queries.data<float>() + row * 16;
            double sum = std::exp(static_cast<double>(row % 2 == 0 ? sink : sink / 2));
            std::vector<double> expected(16);
            for (int64_t s = 0; s < seen; ++s) {
              double score = 0;
              for (int64_t d = 0; d < 16; ++d) score += static_cast<double>(q[d]) * keys.data<float>()[s * 16 + d];
              const double p = std::exp(score * 0.25);
              sum += p;
              for (size_t d = 0; d < 16; ++d) expected[d] += p * values.data<float>()[s * 16 + static_cast<int64_t>(d)];
            }
            for (size_t d = 0; d < 16; ++d)
              EXPECT_NEAR(out.data<float>()[row * 16 + static_cast<int64_t>(d)], expected[d] / sum, 2e-5);
          }
        }
      }
    }
}

}  // namespace
}  // namespace turboquant
