// The original's QJL residuals. Whole files of the original are compared in tests/convert.
#include "quant/qjl.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "quant/quantize.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

constexpr int64_t kQjlRows = 24;

Weight encoded(const std::vector<float>& w, int64_t cols, int bits, bool qjl = true) {
  QuantSpec spec{QuantSpec::Method::original, bits, 32, DType::f16, qjl};
  const Tensor matrix = from_float(w.data(), {static_cast<int64_t>(w.size()) / cols, cols}, DType::f32);
  return quantize(matrix, {}, spec, nullptr);
}

std::vector<float> decoded(const Weight& weight) {
  std::vector<float> rows(static_cast<size_t>(weight.rows * weight.cols));
  decode_rows(weight, 0, weight.rows, rows.data());
  return rows;
}

double squared_error(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

TEST(Qjl, SignsAreTheOppositeOfThoseOfSeed137) {
  Weight weight;
  weight.rows = 1;
  weight.cols = 96;
  make_qjl(weight);
  EXPECT_EQ(weight.qjl.bits.shape(), (Shape{1, 3}));
  EXPECT_EQ(weight.qjl.norms.shape(), Shape{1});
  EXPECT_EQ(weight.qjl.rotation.block, hadamard_block(96));
  const Tensor signs = make_signs(96, 137);
  for (int64_t i = 0; i < 96; ++i) EXPECT_EQ(weight.qjl.rotation.signs.data<float>()[i], -signs.data<float>()[i]) << i;
}

// pi / 2 - 1 of the squared error stays: an estimate without bias of a random direction, from its signs.
TEST(Qjl, LeavesWhatTheTheorySays) {
  for (const int64_t cols : {512, 320, 1792})
    for (const int bits : {2, 3, 4}) {
      const std::vector<float> w = random_normal(3, kQjlRows * cols);
      const double without = squared_error(decoded(encoded(w, cols, bits, false)), w);
      const double with = squared_error(decoded(encoded(w, cols, bits)), w);
      EXPECT_NEAR(with / without, std::numbers::pi / 2 - 1, 0.04) << cols << " columns, " << bits << " bits";
    }
}

// The definition, in the input's basis: alpha * norm * sum of +-(S x), with S x computed forwards.
TEST(Qjl, ProductsAreThoseOfTheDefinition) {
  constexpr int64_t kCols = 160;  // blocks of 160 = 20 * 8, whose matrix is not symmetric
  const std::vector<float> w = random_normal(5, kQjlRows * kCols), x = random_normal(6, kCols);
  const Weight weight = encoded(w, kCols, 3), plain = encoded(w, kCols, 3, false);
  const std::vector<float> with = decoded(weight), without = decoded(plain);
  std::vector<float> projected(kCols);
  rotate(weight.qjl.rotation, x.data(), projected.data());
  const float alpha = half_to_float(float_to_half(static_cast<float>(std::sqrt(std::numbers::pi / 2 / kCols))));
  for (int64_t r = 0; r < kQjlRows; ++r) {
    double product = 0, signs = 0;
    for (int64_t i = 0; i < kCols; ++i) {
      const auto at = static_cast<size_t>(r * kCols + i);
      product += (static_cast<double>(with[at]) - without[at]) * x[static_cast<size_t>(i)];
      const uint32_t word = weight.qjl.bits.data<uint32_t>()[r * qjl_words(kCols) + i / 32];
      signs += (word >> (i % 32) & 1u) != 0 ? projected[static_cast<size_t>(i)] : -projected[static_cast<size_t>(i)];
    }
    EXPECT_NEAR(product, alpha * half_to_float(weight.qjl.norms.data<uint16_t>()[r]) * signs, 1e-5);
  }
}

TEST(Qjl, AnyRowsDecodeAlike) {
  constexpr int64_t kCols = 64;
  const std::vector<float> w = random_normal(7, kQjlRows * kCols);
  const Weight weight = encoded(w, kCols, 2);
  const std::vector<float> all = decoded(weight);
  std::vector<float> some(5 * kCols);
  decode_rows(weight, 3, 8, some.data());
  for (size_t i = 0; i < some.size(); ++i) ASSERT_EQ(some[i], all[3 * kCols + i]);
}

TEST(Qjl, OnlyTheOriginalsFormatHasIt) {
  const std::vector<float> w = random_normal(8, 16 * 64);
  for (const auto method : {QuantSpec::Method::tcq16, QuantSpec::Method::affine}) {
    const QuantSpec spec{method, 3, 64, DType::f16, true};
    EXPECT_FALSE(static_cast<bool>(quantize(from_float(w.data(), {16, 64}, DType::f32), {}, spec, nullptr).qjl));
  }
}

TEST(Qjl, NormsTooLargeForHalfPrecision) {
  std::vector<float> w = random_normal(9, 4096);
  for (float& v : w) v *= 30000;  // scales fit, the norm of what they leave does not
  EXPECT_NO_THROW(encoded(w, 4096, 2, false));
  try {
    encoded(w, 4096, 2);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "contains values too large for the fp16 norm of a QJL residual");
  }
}

}  // namespace
}  // namespace turboquant
