#include "quant/drift.h"

#include <cmath>

#include "quant/calibration_fixture.h"
#include "quant/fixture.h"

namespace turboquant {
namespace {

constexpr int64_t kWidth = 208, kTokens = 500, kRows = 9;  // more columns than a strip

// The sum over tokens of a b^T, in double precision.
std::vector<double> outer(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<double> sum(static_cast<size_t>(kWidth * kWidth));
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < kWidth; ++i)
      for (int64_t j = 0; j < kWidth; ++j)
        sum[static_cast<size_t>(i * kWidth + j)] +=
            static_cast<double>(a[static_cast<size_t>(t * kWidth + i)]) * b[static_cast<size_t>(t * kWidth + j)];
  return sum;
}

// |w y - v x|^2 over all tokens.
double distance(const Tensor& w, const std::vector<float>& y, const Tensor& v, const std::vector<float>& x) {
  double sum = 0;
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t r = 0; r < kRows; ++r) {
      double difference = 0;
      for (int64_t i = 0; i < kWidth; ++i)
        difference += static_cast<double>(w.data<float>()[r * kWidth + i]) * y[static_cast<size_t>(t * kWidth + i)] -
                      static_cast<double>(v.data<float>()[r * kWidth + i]) * x[static_cast<size_t>(t * kWidth + i)];
      sum += difference * difference;
    }
  return sum;
}

class DriftTest : public testing::Test {
 protected:
  // Inputs before and behind layers that shrink them and add noise.
  DriftTest() : x_(correlated_inputs(1, kTokens, kWidth)), y_(x_), hessian_(kWidth) {
    const std::vector<float> noise = correlated_inputs(2, kTokens, kWidth);
    for (size_t i = 0; i < y_.size(); ++i) y_[i] = 0.8F * x_[i] + 0.3F * noise[i];
    hessian_.add(y_.data(), kTokens, pool_);
  }

  Tensor correction(double strength, ThreadPool& pool) {
    Drift drift(kWidth);
    for (const int64_t begin : {int64_t{0}, int64_t{200}}) {  // in two parts
      const int64_t count = begin == 0 ? 200 : kTokens - 200;
      drift.add(from_float(y_.data() + begin * kWidth, {count, kWidth}, DType::f32),
                from_float(x_.data() + begin * kWidth, {count, kWidth}, DType::f32), pool);
    }
    return drift.correction(hessian_, factor(hessian_, 0.01, pool), strength, pool);
  }

  ThreadPool pool_{2};
  std::vector<float> x_, y_;
  Hessian hessian_;
};

TEST_F(DriftTest, CorrectionSolvesTheNormalEquations) {
  const Tensor solution = correction(0.5, pool_);
  const std::vector<double> h = normalized(hessian_, 0.01);
  std::vector<float> change(x_.size());
  for (size_t i = 0; i < x_.size(); ++i) change[i] = x_[i] - y_[i];
  const std::vector<double> sum = outer(y_, change);
  double trace = 0;
  for (int64_t i = 0; i < kWidth; ++i) trace += static_cast<double>(hessian_.values()[i * kWidth + i]);
  double error = 0, norm = 0;
  for (int64_t i = 0; i < kWidth; ++i)
    for (int64_t j = 0; j < kWidth; ++j) {
      double product = 0;
      for (int64_t k = 0; k < kWidth; ++k)
        product += h[static_cast<size_t>(i * kWidth + k)] * solution.data<float>()[k * kWidth + j];
      const double expected = 0.5 * static_cast<double>(kWidth) / trace * sum[static_cast<size_t>(i * kWidth + j)];
      error += (product - expected) * (product - expected);
      norm += expected * expected;
    }
  EXPECT_LT(std::sqrt(error / norm), 1e-4);
}

TEST_F(DriftTest, CorrectedWeightsGiveWhatTheOthersGave) {
  const std::vector<float> values = correlated_inputs(3, kRows, kWidth);
  const Tensor w = from_float(values.data(), {kRows, kWidth}, DType::f32);
  const double plain = distance(w, y_, w, x_);
  const double whole = distance(corrected(w, correction(1, pool_), pool_), y_, w, x_);
  const double half = distance(corrected(w, correction(0.5, pool_), pool_), y_, w, x_);
  EXPECT_LT(whole, 0.6 * plain);
  // A quadratic function of the strength, least at 1 (but for the damping): half the way takes three quarters.
  EXPECT_NEAR(half, plain - 0.75 * (plain - whole), 0.02 * plain);
  const Tensor same = corrected(w, correction(0, pool_), pool_);
  for (int64_t i = 0; i < w.elements(); ++i) EXPECT_EQ(same.data<float>()[i], w.data<float>()[i]);
}

TEST_F(DriftTest, IsTheSameOnAnyNumberOfThreads) {
  ThreadPool one(1);
  const Tensor a = correction(1, one), b = correction(1, pool_);
  for (int64_t i = 0; i < a.elements(); ++i) ASSERT_EQ(a.data<float>()[i], b.data<float>()[i]) << i;
}

}  // namespace
}  // namespace turboquant
