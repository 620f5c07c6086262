#include "quant/hessian.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "quant/gemm.h"
#include "quant/tile.h"

namespace turboquant {

Hessian::Hessian(int64_t width) {
  if (width < 1) throw Error("no Hessian for a width of " + std::to_string(width));
  sum_ = Tensor::zeros(DType::f32, {width, width});
}

void Hessian::add(const float* x, int64_t tokens, ThreadPool& pool) {
  const int64_t n = width();
  gemm({.a = x,
        .lda = n,
        .b = x,
        .ldb = n,
        .c = sum_.data<float>(),
        .ldc = n,
        .m = n,
        .n = n,
        .k = tokens,
        .upper = true},
       &pool);
  tokens_ += static_cast<double>(tokens);
}

void Hessian::add(const Hessian& other, double weight) {
  const int64_t n = width();
  if (other.width() != n)
    throw Error("Hessians of widths " + std::to_string(n) + " and " + std::to_string(other.width()) +
                " cannot be added");
  const auto factor = static_cast<float>(weight);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j) sum_.data<float>()[i * n + j] += factor * other.values()[i * n + j];
  tokens_ += weight * other.tokens_;
}

namespace {

constexpr double kLeastDamping = 1e-6;
// A pivot below this part of its diagonal element is rounding error.
constexpr double kLeastPivot = 4 * std::numeric_limits<float>::epsilon();

using Block = float[kGroup][kGroup];

// The decomposition H = U^T U (U = C^T, the transpose of the Cholesky factor) in place of the upper triangle of H, by
// recursive halves, down to groups; a group's block of U and the inverse of it are in double precision.
class Cholesky {
 public:
  Cholesky(float* h, int64_t n, ThreadPool& pool)
      : h_(h), n_(n), pool_(pool), inverse_(static_cast<size_t>(n * kGroup)), least_pivot_(static_cast<size_t>(n)) {
    for (int64_t i = 0; i < n; ++i) least_pivot_[static_cast<size_t>(i)] = kLeastPivot * h[i * n + i];
  }

  /// False if H is not positive definite.
  bool run() { return decompose(0, n_ / kGroup); }

  /// Of the diagonal blocks of U: [n / 16][16][16], zero below the diagonal.
  const float* inverse(int64_t group) const { return inverse_.data() + group * kGroup * kGroup; }

 private:
  float* at(int64_t row_group, int64_t column_group) const { return h_ + (row_group * n_ + column_group) * kGroup; }

  Gemm subtract(int64_t row_group, int64_t row_count, int64_t inner_group, int64_t inner_count, const float* b,
                float* c, int64_t columns) const {
    return {.a = at(inner_group, row_group),
            .lda = n_,
            .b = b,
            .ldb = n_,
            .c = c,
            .ldc = n_,
            .m = row_count * kGroup,
            .n = columns,
            .k = inner_count * kGroup,
            .alpha = -1};
  }

  bool decompose(int64_t first, int64_t count) {
    if (count == 1) return decompose_block(first);
    const int64_t half = count / 2, rest = count - half, next = first + half;
    if (!decompose(first, half)) return false;
    const int64_t columns = rest * kGroup;
    pool_.parallel_for((columns + kSolvedColumns - 1) / kSolvedColumns, 1, [&](int64_t begin, int64_t end) {
      solve(first, half, at(first, next) + begin * kSolvedColumns,
            std::min(columns, end * kSolvedColumns) - begin * kSolvedColumns);
    });
    Gemm update = subtract(next, rest, first, half, at(first, next), at(next, next), columns);
    update.upper = true;
    gemm(update, &pool_);
    return decompose(next, rest);
  }

  // b [16 count, columns] becomes U^-T b with U of groups [first, first + count).
  void solve(int64_t first, int64_t count, float* b, int64_t columns) const {
    if (count == 1) return solve_block(inverse(first), b, columns);
    const int64_t half = count / 2;
    float* lower = b + half * kGroup * n_;
    solve(first, half, b, columns);
    gemm(subtract(first + half, count - half, first, half, b, lower, columns));
    solve(first + half, count - half, lower, columns);
  }

  void solve_block(const float* inverse, float* b, int64_t columns) const {
    for (int64_t column = 0; column < columns; column += kGroup) {
      Block x = {};
      for (int k = 0; k < kGroup; ++k)
        for (int i = k; i < kGroup; ++i)
          for (int j = 0; j < kGroup; ++j) x[i][j] += inverse[k * kGroup + i] * b[k * n_ + column + j];
      for (int i = 0; i < kGroup; ++i) std::copy(x[i], x[i] + kGroup, b + i * n_ + column);
    }
  }

  bool decompose_block(int64_t group) {
    float* block = at(group, group);
    double u[kGroup][kGroup] = {}, inverse[kGroup][kGroup] = {};
    for (int i = 0; i < kGroup; ++i)
      for (int j = i; j < kGroup; ++j) {
        double sum = static_cast<double>(block[i * n_ + j]);
        for (int k = 0; k < i; ++k) sum -= u[k][i] * u[k][j];
        if (i == j && !(sum > least_pivot_[static_cast<size_t>(group * kGroup + i)])) return false;
        u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
      }
    for (int j = 0; j < kGroup; ++j)
      for (int i = j; i >= 0; --i) {
        double sum = i == j ? 1 : 0;
        for (int k = i + 1; k <= j; ++k) sum -= u[i][k] * inverse[k][j];
        inverse[i][j] = sum / u[i][i];
      }
    for (int i = 0; i < kGroup; ++i)
      for (int j = 0; j < kGroup; ++j) {
        if (j >= i) block[i * n_ + j] = static_cast<float>(u[i][j]);
        inverse_[static_cast<size_t>((group * kGroup + i) * kGroup + j)] = static_cast<float>(inverse[i][j]);
      }
    return true;
  }

  float* h_;
  int64_t n_;
  ThreadPool& pool_;
  std::vector<float> inverse_;
  std::vector<double> least_pivot_;
};

// From U, a group's rows at a time: L of the rows below it, L[later, g] = C[later, g] C[g, g]^-1 = (U[g, g]^-1
// U[g, later])^T, and its block of D = U[g, g]^T U[g, g]. What lies above is cleared. Returns the trace of the block.
double finish_group(float* u, int64_t n, int64_t group, const float* inverse, float* d) {
  float* rows = u + group * kGroup * n;
  double trace = 0;
  for (int i = 0; i < kGroup; ++i)
    for (int j = 0; j < kGroup; ++j) {
      double sum = 0;
      for (int k = 0; k <= std::min(i, j); ++k)
        sum += static_cast<double>(rows[k * n + group * kGroup + i]) * rows[k * n + group * kGroup + j];
      d[i * kGroup + j] = static_cast<float>(sum);
      if (i == j) trace += sum;
    }
  for (int64_t column = (group + 1) * kGroup; column < n; column += kGroup) {
    Block x = {};
    for (int i = 0; i < kGroup; ++i)
      for (int k = i; k < kGroup; ++k)
        for (int j = 0; j < kGroup; ++j) x[i][j] += inverse[i * kGroup + k] * rows[k * n + column + j];
    for (int j = 0; j < kGroup; ++j)
      for (int i = 0; i < kGroup; ++i) u[(column + j) * n + group * kGroup + i] = x[i][j];
  }
  for (int i = 0; i < kGroup; ++i) std::fill(rows + i * n + group * kGroup, rows + (i + 1) * n, 0.0F);
  return trace;
}

}  // namespace

HessianFactor factor(const Hessian& hessian, double damping, ThreadPool& pool) {
  const int64_t n = hessian.width(), groups = n / kGroup;
  if (n % kGroup != 0)
    throw Error("a Hessian of width " + std::to_string(n) + " has no groups: the width must be a multiple of 16");
  const float* values = hessian.values();
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::all_of(values + i * n + i, values + (i + 1) * n, [](float x) { return std::isfinite(x); }))
      throw Error("the Hessian contains NaN or infinity: so do the inputs that it was made from");
    trace += static_cast<double>(values[i * n + i]);
  }
  const double scale = trace > 0 ? static_cast<double>(n) / trace : 0;

  HessianFactor result{Tensor::zeros(DType::f32, {n, n}), Tensor::zeros(DType::f32, {groups, kGroup, kGroup}), damping,
                       0};
  float* u = result.feedback.data<float>();
  for (;; result.damping = std::max(10 * result.damping, kLeastDamping)) {
    // No element of a positive definite matrix is larger than its trace; what is not one ends as one for certain.
    const auto largest = static_cast<double>(n);
    pool.parallel_for(n, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = i; j < n; ++j)
          u[i * n + j] = static_cast<float>(std::clamp(scale * values[i * n + j], -largest, largest) +
                                            (i == j ? result.damping : 0));
    });
    double damped_trace = 0;
    for (int64_t i = 0; i < n; ++i) damped_trace += static_cast<double>(u[i * n + i]);
    Cholesky cholesky(u, n, pool);
    if (!cholesky.run()) continue;

    std::vector<double> traces(static_cast<size_t>(groups));
    pool.parallel_for(groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g)
        traces[static_cast<size_t>(g)] =
            finish_group(u, n, g, cholesky.inverse(g), result.diagonal.data<float>() + g * kGroup * kGroup);
    });
    for (const double part : traces) result.gain += part / damped_trace;
    return result;
  }
}

}  // namespace turboquant
