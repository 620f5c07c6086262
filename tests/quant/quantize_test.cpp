#include "quant/quantize.h"

#include <cmath>
#include <limits>
#include <string>

#include "core/random.h"
#include "quant/affine.h"
#include "quant/fixture.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

using Method = QuantSpec::Method;

TEST(Affine, WordsScalesAndValuesAreMlxs) {
  const Fixture fixture = read_fixture("affine.bin");
  const Tensor& w = fixture.at("w");
  for (const int bits : {2, 3, 4, 8})
    for (const int group : {32, 64}) {
      const std::string key = std::to_string(bits) + "." + std::to_string(group);
      const Weight weight = affine_encode(bits, group, w.data<float>(), w.dim(0), w.dim(1));
      EXPECT_TRUE(same_bytes(weight.data, fixture.at("words" + key))) << key;
      EXPECT_TRUE(same_bytes(weight.scales, fixture.at("scales" + key))) << key;
      EXPECT_TRUE(same_bytes(weight.biases, fixture.at("biases" + key))) << key;
      Tensor decoded = Tensor::zeros(DType::f32, {w.dim(0), w.dim(1)});
      decode_rows(weight, 0, w.dim(0), decoded.data<float>());
      EXPECT_TRUE(same_bytes(decoded, fixture.at("decoded" + key))) << key;
    }
}

TEST(Affine, ErrorIsAtMostHalfAStep) {
  constexpr int64_t kRows = 3, kCols = 256;
  const std::vector<float> w = random_normal(9, kRows * kCols);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const Weight weight = affine_encode(bits, 64, w.data(), kRows, kCols, DType::f32);
    std::vector<float> decoded(w.size());
    decode_rows(weight, 0, kRows, decoded.data());
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      // Zero's place among the codes stretches the range: the far end may lie up to one step beyond the last code.
      const float step = std::fabs(weight.scales.data<float>()[i / 64]);
      EXPECT_LE(std::fabs(w[static_cast<size_t>(i)] - decoded[static_cast<size_t>(i)]), 1.001F * step) << bits;
    }
  }
}

std::vector<QuantSpec> all_specs() {
  std::vector<QuantSpec> specs;
  for (const int bits : {2, 3, 4, 8}) specs.push_back({Method::tcq16, bits, 64, DType::f16});
  for (const int bits : {2, 3, 4}) specs.push_back({Method::original, bits, 32, DType::f16});
  for (const int bits : {2, 3, 4, 8}) specs.push_back({Method::affine, bits, 64, DType::f32});
  return specs;
}

// Rows come out the same from one thread, from a pool, and from any part of decode_rows; rotated back they are near w.
TEST(Quantize, SameWeightFromAnyNumberOfThreads) {
  constexpr int64_t kRows = 150, kCols = 576;
  const std::vector<float> w = random_normal(12, kRows * kCols);
  const Rotation rotation = make_rotation(kCols, 42);
  ThreadPool pool(2);
  for (const QuantSpec& spec : all_specs()) {
    const Weight one = quantize(from_float(w.data(), {kRows, kCols}, DType::f32), rotation, spec, nullptr);
    const Weight two = quantize(from_float(w.data(), {kRows, kCols}, DType::f32), rotation, spec, &pool);
    EXPECT_TRUE(same_bytes(one.data, two.data));
    EXPECT_TRUE(same_bytes(one.scales, two.scales));
    std::vector<float> decoded(w.size()), part(static_cast<size_t>(40 * kCols));
    decode_rows(one, 0, kRows, decoded.data());
    decode_rows(one, 7, 47, part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), decoded.begin() + 7 * kCols));
    for (int64_t row = 0; row < kRows; ++row)
      rotate_inverse(rotation, decoded.data() + row * kCols, decoded.data() + row * kCols);
    const double bound = spec.bits == 2 ? 0.3 : spec.bits == 3 ? 0.05 : spec.bits == 4 ? 0.013 : 1e-4;
    EXPECT_LT(relative_error(w, decoded), bound) << spec.bits << " bits, method " << static_cast<int>(spec.method);
  }
}

TEST(Quantize, WithoutRotationTheRowsStayInTheirBasis) {
  constexpr int64_t kRows = 20, kCols = 64;
  std::vector<float> w = random_normal(13, kRows * kCols), decoded(w.size());
  const Weight weight = quantize(from_float(w.data(), {kRows, kCols}, DType::f32), Rotation{},
                                 {Method::tcq16, 8, 64, DType::f16}, nullptr);
  decode_rows(weight, 0, kRows, decoded.data());
  EXPECT_LT(relative_error(w, decoded), 1e-4);
}

TEST(Quantize, RejectsNanAndInfinityWithTheirPlace) {
  constexpr int64_t kRows = 20, kCols = 64;
  std::vector<float> w = random_normal(14, kRows * kCols);
  const Rotation rotation = make_rotation(kCols, 1);
  ThreadPool pool(2);
  for (const QuantSpec& spec : all_specs()) {
    w[17 * kCols + 3] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(error_of([&] {
                quantize(from_float(w.data(), {kRows, kCols}, DType::f32), rotation, spec, nullptr);
              }),
              "contains NaN (row 17, column 3)");
    w[17 * kCols + 3] = -std::numeric_limits<float>::infinity();
    EXPECT_EQ(error_of([&] {
                quantize(from_float(w.data(), {kRows, kCols}, DType::f32), rotation, spec, &pool);
              }),
              "contains infinity (row 17, column 3)");
  }
}

TEST(Quantize, RejectsWrongSizes) {
  const std::vector<float> w(64 * 64);
  const Rotation other = make_rotation(32, 1);
  EXPECT_NE(error_of([&] {
              quantize(from_float(w.data(), {1, 64}, DType::f32), other, {}, nullptr);
            }).find("does not fit"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              quantize(from_float(w.data(), {1, 24}, DType::f32), {}, {}, nullptr);
            }).find("multiple of 16"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              quantize(from_float(w.data(), {1, 64}, DType::f32), {}, {Method::tcq16, 5, 64, DType::f16}, nullptr);
            }).find("5 bits"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              quantize(from_float(w.data(), {1, 64}, DType::f32), {}, {Method::affine, 4, 48, DType::f16}, nullptr);
            }).find("48"),
            std::string::npos);
  EXPECT_TRUE(QuantSpec{}.fits(48));
  EXPECT_FALSE(QuantSpec{}.fits(40));
}

TEST(DecodeRows, DenseTypesAndRowsOutOfRange) {
  const std::vector<float> w = random_normal(15, 6 * 16);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Weight weight;
    weight.rows = 6;
    weight.cols = 16;
    weight.data = from_float(w.data(), {6, 16}, dtype);
    std::vector<float> part(32);
    decode_rows(weight, 2, 4, part.data());
    for (size_t i = 0; i < part.size(); ++i) EXPECT_NEAR(part[i], w[32 + i], 0.02);
    EXPECT_NE(error_of([&] { decode_rows(weight, 2, 7, part.data()); }).find("do not exist"), std::string::npos);
  }
}

}  // namespace
}  // namespace turboquant
