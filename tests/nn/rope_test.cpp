// Angles of the rotary position embedding against their formulas.
#include "nn/rope.h"

#include <gtest/gtest.h>

#include "io/error_of.h"
#include "models/reference_model.h"

namespace turboquant {
namespace {

using nlohmann::json;

/// Cosines and sines [position][pair] as they are applied: a head of (1, .., 1, 0, .., 0) becomes (cos .., sin ..).
std::vector<std::vector<float>> angles(const json& config, int64_t head_dim, const std::vector<int32_t>& positions) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  Rope rope(config, "m", head_dim);
  rope.reserve(*std::max_element(positions.begin(), positions.end()) + 1);
  const auto tokens = static_cast<int64_t>(positions.size());
  Tensor x = Tensor::zeros(DType::f32, {tokens, head_dim});
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < head_dim / 2; ++i) x.data<float>()[t * head_dim + i] = 1;
  ops->begin_scope();
  const Tensor y = rope.apply(*ops, x, positions);
  std::vector<std::vector<float>> rows;
  for (int64_t t = 0; t < tokens; ++t)
    rows.emplace_back(y.data<float>() + t * head_dim, y.data<float>() + (t + 1) * head_dim);
  return rows;
}

void expect_formula(const json& config, int64_t head_dim) {
  const std::vector<int32_t> positions = {0, 1, 2, 3, 17, 64, 255, 256, 1000, 8191};
  const auto rows = angles(config, head_dim, positions);
  const std::vector<double> frequencies = reference_frequencies(config, head_dim);
  const auto half = static_cast<size_t>(head_dim / 2);
  ASSERT_EQ(frequencies.size(), half);
  for (size_t t = 0; t < positions.size(); ++t)
    for (size_t i = 0; i < half; ++i) {
      const double angle = positions[t] * frequencies[i];
      ASSERT_NEAR(rows[t][i], std::cos(angle), 1e-6) << "position " << positions[t] << ", pair " << i;
      ASSERT_NEAR(rows[t][half + i], std::sin(angle), 1e-6) << "position " << positions[t] << ", pair " << i;
    }
}

const json kLlama3 = {{"rope_theta", 500000.0},
                      {"rope_scaling",
                       {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}}}};

TEST(Rope, Formulas) {
  for (const int64_t head_dim : {16, 64, 128}) {
    expect_formula(json::object(), head_dim);
    expect_formula({{"rope_theta", 1000000}}, head_dim);
    expect_formula({{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.5}}}}, head_dim);
    expect_formula(kLlama3, head_dim);
  }
}

// Numbers worked out by hand, so that the formula above is not its own judge.
TEST(Rope, AFewNumbers) {
  // theta 10000, head_dim 4: frequencies 1 and 1 / 100.
  const auto plain = angles(json::object(), 4, {3})[0];
  EXPECT_NEAR(plain[0], std::cos(3.0), 1e-6);
  EXPECT_NEAR(plain[1], std::cos(0.03), 1e-6);
  EXPECT_NEAR(plain[2], std::sin(3.0), 1e-6);
  EXPECT_NEAR(plain[3], std::sin(0.03), 1e-6);
  const auto linear = angles({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}, 4, {3})[0];
  EXPECT_NEAR(linear[2], std::sin(1.5), 1e-6);
  EXPECT_NEAR(linear[3], std::sin(0.015), 1e-6);
  // llama3, context 8192 and theta 500000: the fastest pair (wavelength 6.3 < 8192 / 4) stays; the slowest of head_dim
  // 128 (frequency 500000^(-126 / 128), wavelength 2.6 million > 8192) is 8 times slower.
  const auto scaled = angles(kLlama3, 128, {1000})[0];
  EXPECT_NEAR(scaled[64], std::sin(1000.0), 1e-6);
  EXPECT_NEAR(scaled[127], 1000 * std::pow(500000.0, -126.0 / 128) / 8, 1e-7);
}

TEST(Rope, HeadsTurnAlike) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  Rope rope(json::object(), "m", 16);
  rope.reserve(10);
  Tensor x = Tensor::zeros(DType::f32, {2, 48});
  for (int64_t i = 0; i < 96; ++i) x.data<float>()[i] = static_cast<float>(i % 16) - 5;
  ops->begin_scope();
  const std::vector<int32_t> positions = {9, 4};
  const Tensor y = rope.apply(*ops, x, positions);
  for (int64_t t = 0; t < 2; ++t)
    for (int64_t i = 0; i < 16; ++i)
      for (int64_t head = 1; head < 3; ++head)
        EXPECT_EQ(y.data<float>()[t * 48 + head * 16 + i], y.data<float>()[t * 48 + i]);
  EXPECT_NE(y.data<float>()[0], y.data<float>()[48]);
}

// Tables that grow keep what they had, to the last bit.
TEST(Rope, GrowingTables) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  Rope grown(kLlama3, "m", 32), whole(kLlama3, "m", 32);
  for (const int64_t length : {1, 2, 255, 256, 257, 300, 513, 900, 40}) grown.reserve(length);
  whole.reserve(900);
  std::vector<int32_t> positions(900);
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  Tensor x = Tensor::zeros(DType::f32, {900, 32});
  for (int64_t i = 0; i < x.elements(); ++i) x.data<float>()[i] = static_cast<float>(i % 7);
  ops->begin_scope();
  const Tensor a = grown.apply(*ops, x, positions), b = whole.apply(*ops, x, positions);
  EXPECT_EQ(std::memcmp(a.data<float>(), b.data<float>(), a.bytes()), 0);
}

TEST(Rope, UnknownTypes) {
  for (const char* type : {"dynamic", "longrope", ""})
    EXPECT_HAS(error_of([&] {
                 Rope({{"rope_scaling", {{"rope_type", type}}}}, "m", 16);
               }),
               "m: config.json: rope_scaling of type '" + std::string(type) + "' is not supported");
}

}  // namespace
}  // namespace turboquant
