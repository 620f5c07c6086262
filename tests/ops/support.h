// What the tests of the ops share: random shapes and values, memory with guards, and attention in double precision.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "core/cpu.h"
#include "core/half.h"
#include "core/sanitized.h"
#include "core/tensor.h"
#include "ops/cpu/cpu_ops.h"

namespace turboquant {

/// Where long texts would take too long.
inline bool is_slow([[maybe_unused]] CpuLevel level) {
#ifdef TURBOQUANT_EMULATED
  return true;
#else
  return kSanitized || level == CpuLevel::scalar;
#endif
}

/// Random shapes and values from one seed.
class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}

  /// A whole number from low to high, both included.
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  int64_t one_of(std::initializer_list<int64_t> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
  }
  float normal() { return distribution_(engine_); }
  std::vector<float> normals(int64_t n, float size = 1) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& x : values) x = size * normal();
    return values;
  }
  /// Whole numbers from -127 to 127.
  std::vector<int8_t> int8s(int64_t n) {
    std::vector<int8_t> values(static_cast<size_t>(n));
    for (int8_t& x : values) x = static_cast<int8_t>(between(-127, 127));
    return values;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> distribution_;
};

inline Tensor random_tensor(int64_t rows, int64_t width, Dice& dice, float size = 1) {
  return from_float(dice.normals(rows * width, size).data(), {rows, width}, DType::f32);
}

/// The CPU backend as a processor of this level runs it.
inline CpuOps ops_at(CpuLevel level, int threads) { return {std::make_shared<ThreadPool>(threads), level}; }

/// Memory for n results, filled with `value` and followed by guard values, which nobody may write.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t n, T value = T{55}) : size_(static_cast<size_t>(n)), values_(size_ + kGuards, kGuard) {
    std::fill_n(values_.begin(), n, value);
  }
  ~Guarded() {
    EXPECT_TRUE(
        std::all_of(values_.begin() + static_cast<int64_t>(size_), values_.end(), [](T x) { return x == kGuard; }))
        << "written behind the end of " << size_ << " results";
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return values_.data(); }
  size_t size() const { return size_; }
  T& operator[](int64_t i) { return values_[static_cast<size_t>(i)]; }

 private:
  static constexpr size_t kGuards = 64;
  static constexpr T kGuard = T{99};

  size_t size_;
  std::vector<T> values_;
};

inline double norm(const float* x, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  return std::sqrt(squares);
}

/// |a - b| / |b|, of the vectors; |a| if b is zero.
inline double relative_to_norm(const float* a, const float* b, int64_t n) {
  std::vector<float> difference(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) difference[static_cast<size_t>(i)] = a[i] - b[i];
  const double size = norm(b, n);
  return norm(difference.data(), n) / (size > 0 ? size : 1);
}

/// Attention of one query row over `tokens` keys and values, by definition.
struct SoftmaxAttention {
  double maximum = -INFINITY, sum = 0;  // largest score; sum of exp(score - maximum)
  std::vector<double> values;           // weighted by exp(score - maximum) / sum
  double largest_norm = 0;              // of scale * |q| * |key|: scores are rounded relative to it

  /// What a score that has no value leaves to the values.
  double share_beside(double sink) const { return sum / (sum + std::exp(sink - maximum)); }
};

/// With a softcap, scores are softcap * tanh(score / softcap). keys, values: of token t at keys(t), values(t) -> const
/// float* [dim].
template <typename Keys, typename Values>
SoftmaxAttention softmax_attention(const float* q, const Keys& keys, const Values& values, int64_t tokens, int64_t dim,
                                   double scale, double softcap = 0) {
  SoftmaxAttention result;
  result.values.assign(static_cast<size_t>(dim), 0.0);
  std::vector<double> scores(static_cast<size_t>(tokens), 0.0);
  for (int64_t t = 0; t < tokens; ++t) {
    double& score = scores[static_cast<size_t>(t)];
    for (int64_t d = 0; d < dim; ++d) score += static_cast<double>(q[d]) * keys(t)[d];
    score *= scale;
    if (softcap > 0) score = softcap * std::tanh(score / softcap);
    result.largest_norm = std::max(result.largest_norm, scale * norm(q, dim) * norm(keys(t), dim));
    result.maximum = std::max(result.maximum, score);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    const double p = std::exp(scores[static_cast<size_t>(t)] - result.maximum);
    result.sum += p;
    for (int64_t d = 0; d < dim; ++d) result.values[static_cast<size_t>(d)] += p * values(t)[d];
  }
  for (double& v : result.values) v /= result.sum;
  return result;
}

}  // namespace turboquant
