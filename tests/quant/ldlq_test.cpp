#include "quant/ldlq.h"

#include <cmath>
#include <limits>
#include <string>

#include "core/half.h"
#include "quant/calibration_fixture.h"
#include "quant/fixture.h"
#include "quant/quantize.h"
#include "quant/rotation.h"
#include "quant/tcq16.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

using Method = QuantSpec::Method;

// A matrix, a rotation, and a Hessian of inputs in the rotated basis.
struct Problem {
  Tensor w;  // [rows, cols]
  std::vector<float> w_rot;
  Rotation rotation;  // empty: none
  Hessian hessian;
  HessianFactor factor;
};

Problem make_problem(int64_t rows, int64_t cols, bool rotated, uint64_t seed) {
  ThreadPool pool(1);
  Problem problem{from_float(random_normal(seed, rows * cols).data(), {rows, cols}, DType::f32),
                  std::vector<float>(static_cast<size_t>(rows * cols)),
                  rotated ? make_rotation(cols, seed) : Rotation{},
                  Hessian(cols),
                  {}};
  std::vector<float> x = correlated_inputs(seed + 1, 2 * cols, cols);
  if (rotated)
    for (int64_t t = 0; t < 2 * cols; ++t) rotate(problem.rotation, x.data() + t * cols, x.data() + t * cols);
  problem.hessian.add(x.data(), 2 * cols, pool);
  problem.factor = factor(problem.hessian, 0.01, pool);
  load_rows(problem.w, problem.rotation, 0, rows, problem.w_rot.data());
  return problem;
}

// x H y for two rows, in double precision.
double form(const std::vector<double>& h, const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    double row = 0;
    for (size_t j = 0; j < y.size(); ++j) row += h[i * y.size() + j] * y[j];
    sum += x[i] * row;
  }
  return sum;
}

// tr(E H E^T) / tr(W H W^T) of a stored matrix.
double weighted_error(const Problem& problem, const Weight& weight) {
  const std::vector<double> h = normalized(problem.hessian, problem.factor.damping);
  std::vector<float> decoded(problem.w_rot.size());
  decode_rows(weight, 0, weight.rows, decoded.data());
  double error = 0, norm = 0;
  for (int64_t row = 0; row < weight.rows; ++row) {
    std::vector<double> w, e;
    for (int64_t i = row * weight.cols; i < (row + 1) * weight.cols; ++i) {
      w.push_back(static_cast<double>(problem.w_rot[static_cast<size_t>(i)]));
      e.push_back(w.back() - static_cast<double>(decoded[static_cast<size_t>(i)]));
    }
    error += form(h, e, e);
    norm += form(h, w, w);
  }
  return error / norm;
}

// The least squared error of a group of 16, in table units, over all codes.
double least_error(int bits, const double* x) {
  double least = std::numeric_limits<double>::infinity();
  for (int index = 0; bits != 8 && index < 16; ++index) {
    uint8_t codes[kGroup];
    least = std::min(least, tcq16_search(bits, index, x, codes));
  }
  if (bits != 8) return least;
  double error = 0;
  for (int i = 0; i < kGroup; ++i) {
    const double e = x[i] - std::nearbyint(std::clamp(x[i], -127.0, 127.0));
    error += e * e;
  }
  return error;
}

// What is stored, against the definition in double precision: each group's codes are the best for the target that
// follows from what is stored of the later ones, and each row's scale is least squares in H.
void expect_defined(const Problem& problem, const CalibratedWeight& result) {
  const Weight& weight = result.weight;
  const int64_t cols = weight.cols, groups = cols / kGroup, tile_bytes = groups * block_bytes(weight.bits);
  const std::vector<double> h = normalized(problem.hessian, problem.factor.damping);
  const float* l = problem.factor.feedback.data<float>();
  for (int64_t row = 0; row < weight.rows; ++row) {
    std::vector<int8_t> levels(static_cast<size_t>(cols));
    const int in_tile = static_cast<int>(row % kTileRows);
    unpack_rows(weight.bits, weight.data.data<uint8_t>() + row / kTileRows * tile_bytes, groups, in_tile, in_tile + 1,
                levels.data());
    const float* w_row = problem.w_rot.data() + row * cols;
    const double unit = row_unit(weight.bits, w_row, cols);
    std::vector<double> w, q, e;
    for (int64_t i = 0; i < cols; ++i) {
      w.push_back(static_cast<double>(w_row[i]) / unit);
      q.push_back(static_cast<double>(levels[static_cast<size_t>(i)]));
      e.push_back(w.back() - q.back());
    }
    for (int64_t g = 0; g < groups; ++g) {
      double target[kGroup], error = 0;
      for (int64_t i = 0; i < kGroup; ++i) {
        const int64_t column = g * kGroup + i;
        target[i] = w[static_cast<size_t>(column)];
        for (int64_t later = (g + 1) * kGroup; later < cols; ++later)
          target[i] += e[static_cast<size_t>(later)] * static_cast<double>(l[later * cols + column]);
        const double rest = target[i] - q[static_cast<size_t>(column)];
        error += rest * rest;
      }
      const double least = least_error(weight.bits, target);
      EXPECT_NEAR(error, least, 1e-3 * least + 1e-3) << weight.bits << " bits, row " << row << ", group " << g;
    }
    const double scale = unit * form(h, w, q) / form(h, q, q);
    EXPECT_NEAR(half_to_float(weight.scales.data<uint16_t>()[row]), scale, 6e-4 * scale) << row;
  }
  const double error = weighted_error(problem, weight);
  EXPECT_NEAR(result.error, error, 1e-3 * error);
}

TEST(Ldlq, IsItsDefinition) {
  const Problem small = make_problem(40, 64, false, 1), wide = make_problem(5, 576, true, 2);
  for (const int bits : {2, 3, 4, 8}) expect_defined(small, ldlq(small.w, small.rotation, bits, small.factor, nullptr));
  expect_defined(wide, ldlq(wide.w, wide.rotation, 3, wide.factor, nullptr));
}

TEST(Ldlq, ErrorInTheHessianIsFarBelowPlainCodes) {
  const Problem problem = make_problem(64, 320, true, 3);
  EXPECT_LT(problem.factor.gain, 0.3);
  for (const int bits : {2, 3, 4, 8}) {
    const Weight plain = quantize(problem.w, problem.rotation, {Method::tcq16, bits}, nullptr);
    const CalibratedWeight calibrated = ldlq(problem.w, problem.rotation, bits, problem.factor, nullptr);
    const double ratio = calibrated.error / weighted_error(problem, plain);
    RecordProperty("ratio" + std::to_string(bits), std::to_string(ratio));
    EXPECT_NEAR(ratio, problem.factor.gain, 0.15 * problem.factor.gain) << bits << " bits";
  }
}

TEST(Ldlq, OfUncorrelatedInputsIsThePlainCode) {
  constexpr int64_t kRows = 37, kCols = 208;
  Problem problem = make_problem(kRows, kCols, true, 4);
  std::vector<float> identity(kCols * kCols);
  for (int64_t i = 0; i < kCols; ++i) identity[static_cast<size_t>(i * kCols + i)] = 3;
  ThreadPool pool(1);
  for (const Hessian& hessian : {hessian_of(identity, kCols), Hessian(kCols)}) {
    const HessianFactor plain_factor = factor(hessian, 0.01, pool);
    for (const int bits : {2, 3, 4}) {
      const Weight plain = quantize(problem.w, problem.rotation, {Method::tcq16, bits}, nullptr);
      const CalibratedWeight calibrated = ldlq(problem.w, problem.rotation, bits, plain_factor, nullptr);
      EXPECT_TRUE(same_bytes(calibrated.weight.data, plain.data)) << bits;
      for (int64_t row = 0; row < kRows; ++row)
        EXPECT_NEAR(calibrated.weight.scales.data<uint16_t>()[row], plain.scales.data<uint16_t>()[row], 1) << row;
    }
  }
}

TEST(Ldlq, SameBytesFromAnyNumberOfThreads) {
  const Problem problem = make_problem(150, 96, true, 5);
  ThreadPool one(1), three(3);
  for (const int bits : {3, 8}) {
    const CalibratedWeight none = ldlq(problem.w, problem.rotation, bits, problem.factor, nullptr);
    for (ThreadPool* pool : {&one, &three}) {
      const CalibratedWeight result = ldlq(problem.w, problem.rotation, bits, problem.factor, pool);
      EXPECT_TRUE(same_bytes(none.weight.data, result.weight.data));
      EXPECT_TRUE(same_bytes(none.weight.scales, result.weight.scales));
      EXPECT_EQ(none.error, result.error);
    }
  }
}

TEST(Ldlq, RowsWithoutWeightsHaveScaleZero) {
  Problem problem = make_problem(20, 64, false, 6);
  std::fill_n(problem.w.data<float>() + 3 * 64, 64, 0.0F);
  for (int64_t i = 0; i < 64; ++i) problem.w.data<float>()[17 * 64 + i] *= 1e-38F;
  for (const int bits : {2, 8}) {
    const CalibratedWeight result = ldlq(problem.w, problem.rotation, bits, problem.factor, nullptr);
    std::vector<float> decoded(20 * 64);
    decode_rows(result.weight, 0, 20, decoded.data());
    for (const int64_t row : {3, 17}) EXPECT_EQ(result.weight.scales.data<uint16_t>()[row], 0) << row;
    for (const float x : decoded) EXPECT_TRUE(std::isfinite(x));
    EXPECT_GT(result.error, 0);
    EXPECT_LT(result.error, 0.1);
  }
  std::fill_n(problem.w.data<float>(), 20 * 64, 0.0F);
  EXPECT_EQ(ldlq(problem.w, problem.rotation, 3, problem.factor, nullptr).error, 0);
}

TEST(Ldlq, ErrorsAreThoseOfQuantize) {
  Problem problem = make_problem(20, 64, true, 7);
  const auto error_for = [&](int bits) {
    return error_of([&] { ldlq(problem.w, problem.rotation, bits, problem.factor, nullptr); });
  };
  EXPECT_NE(error_for(5).find("use 2, 3, 4 or 8"), std::string::npos);
  problem.w.data<float>()[17 * 64 + 3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(error_for(3), "contains NaN (row 17, column 3)");
  problem.w.data<float>()[17 * 64 + 3] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(error_for(8), "contains infinity (row 17, column 3)");
  problem.w.data<float>()[17 * 64 + 3] = 1e9F;
  EXPECT_NE(error_for(3).find("too large for an fp16 scale"), std::string::npos);
  const Problem other = make_problem(20, 96, false, 8);
  EXPECT_EQ(error_of([&] { ldlq(problem.w, problem.rotation, 3, other.factor, nullptr); }),
            "a Hessian of width 96 does not fit a matrix of width 64");
}

}  // namespace
}  // namespace turboquant
