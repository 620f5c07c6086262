#include "quant/drift.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "quant/gemm.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

Tensor transposed(const float* x, int64_t rows, int64_t cols, ThreadPool& pool) {
  Tensor result = Tensor::zeros(DType::f32, {cols, rows});
  float* out = result.data<float>();
  pool.parallel_for((cols + kGroup - 1) / kGroup, 4, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = begin * kGroup; c < std::min(cols, end * kGroup); ++c) out[c * rows + r] = x[r * cols + c];
  });
  return result;
}

// x [16, columns] becomes D^-1 x, D symmetric and positive definite, by Cholesky in double precision.
void solve_block(const float* d, float* x, int64_t ldx, int64_t columns) {
  double c[kGroup][kGroup];
  for (int j = 0; j < kGroup; ++j)
    for (int i = j; i < kGroup; ++i) {
      double sum = static_cast<double>(d[i * kGroup + j]);
      for (int k = 0; k < j; ++k) sum -= c[i][k] * c[j][k];
      c[i][j] = i == j ? std::sqrt(std::max(sum, 1e-30)) : sum / c[j][j];
    }
  for (int64_t column = 0; column < columns; ++column) {
    double v[kGroup];
    for (int i = 0; i < kGroup; ++i) {
      v[i] = static_cast<double>(x[i * ldx + column]);
      for (int k = 0; k < i; ++k) v[i] -= c[i][k] * v[k];
      v[i] /= c[i][i];
    }
    for (int i = kGroup - 1; i >= 0; --i) {
      for (int k = i + 1; k < kGroup; ++k) v[i] -= c[k][i] * v[k];
      v[i] /= c[i][i];
      x[i * ldx + column] = static_cast<float>(v[i]);
    }
  }
}

}  // namespace

void Drift::add(const Tensor& y, const Tensor& x, ThreadPool& pool) {
  const int64_t n = sum_.dim(0);
  std::vector<float> change(static_cast<size_t>(x.elements()));
  std::transform(x.data<float>(), x.data<float>() + x.elements(), y.data<float>(), change.begin(), std::minus<>());
  gemm({.a = y.data<float>(),
        .lda = n,
        .b = change.data(),
        .ldb = n,
        .c = sum_.data<float>(),
        .ldc = n,
        .m = n,
        .n = n,
        .k = y.dim(0)},
       &pool);
}

Tensor Drift::correction(const Hessian& hessian, const HessianFactor& factor, double strength, ThreadPool& pool) {
  const int64_t n = sum_.dim(0), groups = n / kGroup;
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += static_cast<double>(hessian.values()[i * n + i]);
  const auto scale = static_cast<float>(trace > 0 ? strength * static_cast<double>(n) / trace : 0);
  const float* lower = factor.feedback.data<float>();
  const Tensor upper = transposed(lower, n, n, pool);  // L^T - 1
  float* x = sum_.data<float>();
  pool.parallel_for((n + kSolvedColumns - 1) / kSolvedColumns, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kSolvedColumns, columns = std::min(n, end * kSolvedColumns) - first;
    const auto rows = [&](int64_t group) { return x + group * kGroup * n + first; };
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < columns; ++j) x[i * n + first + j] *= scale;
    const auto subtract = [&](const float* a, const float* b, int64_t group, int64_t k) {
      gemm({.a = a,
            .lda = n,
            .b = b,
            .ldb = n,
            .c = rows(group),
            .ldc = n,
            .m = kGroup,
            .n = columns,
            .k = k,
            .alpha = -1});
    };
    for (int64_t g = 1; g < groups; ++g) subtract(upper.data<float>() + g * kGroup, rows(0), g, g * kGroup);
    for (int64_t g = 0; g < groups; ++g)
      solve_block(factor.diagonal.data<float>() + g * kGroup * kGroup, rows(g), n, columns);
    for (int64_t g = groups - 2; g >= 0; --g)
      subtract(lower + (g + 1) * kGroup * n + g * kGroup, rows(g + 1), g, n - (g + 1) * kGroup);
  });
  return sum_;
}

Tensor corrected(const Tensor& w, const Tensor& correction, ThreadPool& pool) {
  const int64_t rows = w.dim(0), n = w.dim(1);
  const Tensor columns = transposed(w.data<float>(), rows, n, pool),
               matrix = transposed(correction.data<float>(), n, n, pool);
  Tensor result = from_float(w.data<float>(), w.shape(), DType::f32);
  gemm({.a = columns.data<float>(),
        .lda = rows,
        .b = matrix.data<float>(),
        .ldb = n,
        .c = result.data<float>(),
        .ldc = n,
        .m = rows,
        .n = n,
        .k = n},
       &pool);
  return result;
}

}  // namespace turboquant
