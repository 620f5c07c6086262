#include "quant/hessian.h"

#include <cmath>
#include <limits>
#include <string>

#include "quant/calibration_fixture.h"
#include "quant/fixture.h"

namespace turboquant {
namespace {

// The greatest difference of L D L^T from the normalized and damped Hessian, in double precision, relative to the
// diagonal.
double greatest_difference(const HessianFactor& factor, const Hessian& hessian) {
  const int64_t n = hessian.width();
  const std::vector<double> h = normalized(hessian, factor.damping);
  const float* l = factor.feedback.data<float>();
  const float* d = factor.diagonal.data<float>();
  const auto unit_lower = [&](int64_t i, int64_t j) { return i == j ? 1.0 : static_cast<double>(l[i * n + j]); };
  std::vector<double> weighted(static_cast<size_t>(n * n));  // L D
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < (i / 16 + 1) * 16; ++j)
      for (int64_t k = j / 16 * 16; k < j / 16 * 16 + 16; ++k)
        weighted[static_cast<size_t>(i * n + j)] += unit_lower(i, k) * d[k * 16 + j % 16];
  double greatest = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < (j / 16 + 1) * 16; ++k)
        sum += weighted[static_cast<size_t>(i * n + k)] * unit_lower(j, k);
      const double scale = std::sqrt(h[static_cast<size_t>(i * n + i)] * h[static_cast<size_t>(j * n + j)]);
      greatest = std::max(greatest, std::fabs(sum - h[static_cast<size_t>(i * n + j)]) / scale);
    }
  return greatest;
}

TEST(Hessian, IsTheSumOfOuterProducts) {
  constexpr int64_t kWidth = 80, kTokens = 37;
  const std::vector<float> x = correlated_inputs(1, kTokens, kWidth), y = correlated_inputs(2, 5, kWidth);
  ThreadPool pool(2);
  Hessian hessian(kWidth), other(kWidth);
  hessian.add(x.data(), 30, pool);
  hessian.add(x.data() + 30 * kWidth, kTokens - 30, pool);
  other.add(y.data(), 5, pool);
  hessian.add(other, 0.5);
  EXPECT_EQ(hessian.tokens(), kTokens + 2.5);
  EXPECT_EQ(hessian.bytes(), static_cast<size_t>(kWidth * kWidth * 4));
  for (int64_t i = 0; i < kWidth; ++i)
    for (int64_t j = i; j < kWidth; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < kTokens; ++t)
        sum += static_cast<double>(x[static_cast<size_t>(t * kWidth + i)]) * x[static_cast<size_t>(t * kWidth + j)];
      for (int64_t t = 0; t < 5; ++t)
        sum +=
            0.5 * static_cast<double>(y[static_cast<size_t>(t * kWidth + i)]) * y[static_cast<size_t>(t * kWidth + j)];
      EXPECT_NEAR(hessian.values()[i * kWidth + j], sum, 1e-4) << i << " " << j;
    }
}

TEST(Hessian, FactorIsItsBlockDecomposition) {
  ThreadPool pool(2);
  for (const int64_t n : {16, 64, 336}) {
    const Hessian hessian = hessian_of(correlated_inputs(3, 2 * n, n), n);
    const HessianFactor result = factor(hessian, 0.01, pool);
    EXPECT_EQ(result.damping, 0.01);
    EXPECT_LT(greatest_difference(result, hessian), 3e-6) << n;
    double trace = 0;
    for (int64_t i = 0; i < n; ++i) trace += static_cast<double>(result.diagonal.data<float>()[i * 16 + i % 16]);
    EXPECT_NEAR(result.gain, trace / (1.01 * static_cast<double>(n)), 1e-5);
    EXPECT_LT(result.gain, n == 16 ? 1.00001 : 0.7) << "neighbours predict one another";
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = i / 16 * 16; j < n; ++j) ASSERT_EQ(result.feedback.data<float>()[i * n + j], 0) << i << " " << j;
  }
}

TEST(Hessian, SameBitsFromAnyNumberOfThreads) {
  constexpr int64_t kWidth = 400;
  const std::vector<float> x = correlated_inputs(4, 300, kWidth);
  ThreadPool one(1), three(3);
  Hessian a(kWidth), b(kWidth);
  a.add(x.data(), 300, one);
  b.add(x.data(), 300, three);
  const HessianFactor factor_a = factor(a, 0.01, one), factor_b = factor(b, 0.01, three);
  EXPECT_TRUE(same_bytes(factor_a.feedback, factor_b.feedback));
  EXPECT_TRUE(same_bytes(factor_a.diagonal, factor_b.diagonal));
  EXPECT_EQ(factor_a.gain, factor_b.gain);
}

TEST(Hessian, DampingGrowsUntilTheFactorExists) {
  constexpr int64_t kWidth = 96;
  ThreadPool pool(1);
  const HessianFactor of_zeros = factor(Hessian(kWidth), 0, pool);
  EXPECT_GT(of_zeros.damping, 0);
  EXPECT_NEAR(of_zeros.gain, 1, 1e-6);
  for (int64_t i = 0; i < kWidth * kWidth; ++i) ASSERT_EQ(of_zeros.feedback.data<float>()[i], 0);

  // Three tokens: rank 3. With damping it has a factor as it is, without it has none.
  const Hessian deficient = hessian_of(correlated_inputs(5, 3, kWidth), kWidth);
  const HessianFactor damped = factor(deficient, 0.01, pool);
  EXPECT_EQ(damped.damping, 0.01);
  EXPECT_LT(greatest_difference(damped, deficient), 3e-6);
  const HessianFactor raised = factor(deficient, 0, pool);
  EXPECT_GE(raised.damping, 1e-6);
  EXPECT_LT(greatest_difference(raised, deficient), 1e-5);

  Hessian indefinite = hessian_of(correlated_inputs(6, 200, kWidth), kWidth);
  indefinite.add(hessian_of(correlated_inputs(7, 3, kWidth), kWidth), -40);
  const HessianFactor forced = factor(indefinite, 0.01, pool);
  EXPECT_GT(forced.damping, 0.01);
  for (int64_t i = 0; i < kWidth * kWidth; ++i) ASSERT_TRUE(std::isfinite(forced.feedback.data<float>()[i]));
}

TEST(Hessian, ErrorsSayWhatIsWrong) {
  ThreadPool pool(1);
  EXPECT_NE(error_of([] { Hessian(0); }).find("width of 0"), std::string::npos);
  EXPECT_NE(error_of([] { Hessian(32).add(Hessian(16), 1); }).find("32 and 16"), std::string::npos);
  EXPECT_NE(error_of([&] { factor(Hessian(24), 0.01, pool); }).find("multiple of 16"), std::string::npos);
  std::vector<float> x(64, 1.0F);
  x[20] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(error_of([&] { factor(hessian_of(x, 32), 0.01, pool); }).find("contains NaN"), std::string::npos);
}

}  // namespace
}  // namespace turboquant
