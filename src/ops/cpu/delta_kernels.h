// The elementwise kernels of linear attention over core/simd.h, compiled once an instruction set.
#pragma once

#include "ops/cpu/float_kernels.h"

namespace turboquant {
namespace {

inline Floats sigmoid(Floats x) { return Floats::all(1.0F) / (Floats::all(1.0F) + exp(Floats::zero() - x)); }

void sigmoid_gate(const float* x, const float* gate, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) (Floats::load(x + i) * sigmoid(Floats::load(gate + i))).store(out + i);
  if (i < n) store_first(load_first(x + i, n - i) * sigmoid(load_first(gate + i, n - i)), out + i, n - i);
}

void conv1d(const float* const* x, const float* weight, int64_t stride, int64_t taps, int64_t n, float* out) {
  int64_t c = 0;
  for (; c + kWidth <= n; c += kWidth) {
    Floats sum = Floats::zero();
    for (int64_t t = 0; t < taps; ++t) sum = fma(Floats::load(weight + t * stride + c), Floats::load(x[t] + c), sum);
    silu_times(sum, Floats::all(1.0F)).store(out + c);
  }
  if (c < n) {
    Floats sum = Floats::zero();
    for (int64_t t = 0; t < taps; ++t)
      sum = fma(load_first(weight + t * stride + c, n - c), load_first(x[t] + c, n - c), sum);
    store_first(silu_times(sum, Floats::all(1.0F)), out + c, n - c);
  }
}

}  // namespace
}  // namespace turboquant
