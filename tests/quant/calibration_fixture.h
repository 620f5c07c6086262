// Inputs whose elements predict one another, and their Hessians, for the tests of calibrated compression.
#pragma once

#include <cstdint>
#include <vector>

#include "core/random.h"
#include "quant/hessian.h"

namespace turboquant {

/// [tokens, width]; along a token each element is 0.9 times the one before it and noise (variance 1).
inline std::vector<float> correlated_inputs(uint64_t seed, int64_t tokens, int64_t width) {
  std::vector<float> x = random_normal(seed, tokens * width);
  for (int64_t i = 0; i < tokens * width; ++i)
    if (i % width != 0)
      x[static_cast<size_t>(i)] = 0.9F * x[static_cast<size_t>(i - 1)] + 0.436F * x[static_cast<size_t>(i)];
  return x;
}

inline Hessian hessian_of(const std::vector<float>& x, int64_t width) {
  ThreadPool pool(1);
  Hessian hessian(width);
  hessian.add(x.data(), static_cast<int64_t>(x.size()) / width, pool);
  return hessian;
}

/// All elements [width, width], the trace normalized to the width, damped.
inline std::vector<double> normalized(const Hessian& hessian, double damping) {
  const int64_t n = hessian.width();
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += static_cast<double>(hessian.values()[i * n + i]);
  std::vector<double> h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j)
      h[static_cast<size_t>(i * n + j)] = h[static_cast<size_t>(j * n + i)] =
          static_cast<double>(hessian.values()[i * n + j]) / trace * static_cast<double>(n) + (i == j ? damping : 0);
  return h;
}

}  // namespace turboquant
