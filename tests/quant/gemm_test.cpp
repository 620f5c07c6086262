#include "quant/gemm.h"

#include "core/random.h"
#include "quant/fixture.h"
#include "quant/gemm_kernel.h"

namespace turboquant {
namespace {

struct Shape3 {
  int64_t m, n, k;
};

// c + alpha a^T b in double precision, over the whole of c [m, n].
std::vector<float> reference(const Gemm& product, const std::vector<float>& c) {
  std::vector<float> result = c;
  for (int64_t i = 0; i < product.m; ++i) {
    std::vector<double> sum(static_cast<size_t>(product.n));
    for (int64_t k = 0; k < product.k; ++k)
      for (int64_t j = 0; j < product.n; ++j)
        sum[static_cast<size_t>(j)] +=
            static_cast<double>(product.a[k * product.lda + i]) * product.b[k * product.ldb + j];
    for (int64_t j = 0; j < product.n; ++j)
      result[static_cast<size_t>(i * product.ldc + j)] +=
          product.alpha * static_cast<float>(sum[static_cast<size_t>(j)]);
  }
  return result;
}

// Register tiles, blocks and depths, cut everywhere; nothing is written beside c.
TEST(Gemm, EqualsDoublePrecisionAtEveryLevel) {
  uint64_t seed = 0;
  for (const auto& [m, n, k] : {Shape3{1, 1, 1}, {16, 32, 16}, {7, 50, 3}, {8, 48, 300}, {200, 193, 40}, {3, 400, 257}})
    for (const CpuLevel level : available_cpu_levels()) {
      const int64_t lda = m + 3, ldb = n + 5, ldc = n + 1;
      const std::vector<float> a = random_normal(++seed, k * lda), b = random_normal(++seed, k * ldb);
      std::vector<float> c = random_normal(++seed, m * ldc);
      const Gemm product{.a = a.data(),
                         .lda = lda,
                         .b = b.data(),
                         .ldb = ldb,
                         .c = c.data(),
                         .ldc = ldc,
                         .m = m,
                         .n = n,
                         .k = k,
                         .alpha = -2};
      const std::vector<float> expected = reference(product, c), before = c;
      gemm_at(level, product);
      EXPECT_LT(relative_error(expected, c), 1e-12) << name(level) << " " << m << " " << n << " " << k;
      for (int64_t i = 0; i < m; ++i)
        EXPECT_EQ(c[static_cast<size_t>(i * ldc + n)], before[static_cast<size_t>(i * ldc + n)]);
    }
}

TEST(Gemm, SameBitsFromAnyNumberOfThreads) {
  constexpr int64_t kN = 410, kK = 70;
  const std::vector<float> a = random_normal(1, kK * kN);
  ThreadPool pool(3);
  for (const bool upper : {false, true}) {
    std::vector<float> one(kN * kN), three(one.size());
    Gemm product{.a = a.data(),
                 .lda = kN,
                 .b = a.data(),
                 .ldb = kN,
                 .c = one.data(),
                 .ldc = kN,
                 .m = kN,
                 .n = kN,
                 .k = kK,
                 .upper = upper};
    gemm(product);
    product.c = three.data();
    gemm(product, &pool);
    int64_t different = 0;
    for (int64_t i = 0; i < kN; ++i)
      for (int64_t j = upper ? i : 0; j < kN; ++j)
        different += one[static_cast<size_t>(i * kN + j)] != three[static_cast<size_t>(i * kN + j)] ? 1 : 0;
    EXPECT_EQ(different, 0);
    EXPECT_EQ(one[(kN - 1) * kN] == 0, upper) << "the lower left is left out";
  }
}

TEST(Gemm, ScratchHoldsThePanelsOfEveryVersion) {
  for (const int64_t m : {1, 3, 16, 17, 191, 192})
    for (const int64_t n : {1, 11, 48, 49, 180, 192})
      for (const int64_t k : {1, 16, 256, 1000}) {
        const int64_t depth = std::min(k, kGemmDepth);
        for (const auto& [height, width] : {std::pair{4, 12}, {4, 24}, {8, 48}}) {
          const int64_t floats = (m + height - 1) / height * gemm_panel_floats(height, depth) +
                                 (n + width - 1) / width * gemm_panel_floats(width, depth);
          EXPECT_GE(gemm_scratch(m, n, k), floats) << m << " " << n << " " << k << " " << width;
        }
      }
}

}  // namespace
}  // namespace turboquant
