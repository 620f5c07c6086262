// The kernels of linear attention over core/simd.h, compiled once for AVX2 and once for AVX-512.
#pragma once

#include "core/unroll.h"
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

/// kVectors vectors of columns, or, of a single vector, its first `lanes` columns. Sums over the key's coordinates are
/// kept in two parts, even and odd, so that one addition need not wait for the one before it.
template <int kVectors, bool kWhole>
void delta_columns(const DeltaColumns& d, int64_t first, int64_t lanes) {
  const auto load = [lanes](const float* p, int v)
                        TURBOQUANT_INLINE { return kWhole ? Floats::load(p + v * kWidth) : load_first(p, lanes); };
  const auto store = [lanes](Floats x, float* p, int v) TURBOQUANT_INLINE {
    if (kWhole)
      x.store(p + v * kWidth);
    else
      store_first(x, p, lanes);
  };
  for (int64_t t = 0; t < d.tokens; ++t) {
    const float *q = d.q + t * d.qk_stride, *k = d.k + t * d.qk_stride;
    const Floats decay = Floats::all(d.decay[t * d.gate_stride]), beta = Floats::all(d.beta[t * d.gate_stride]);
    float* memory = d.state + first;
    Floats even[kVectors], odd[kVectors], change[kVectors];
    const auto clear = [&]() TURBOQUANT_INLINE {
      unroll<kVectors>([&](auto v) TURBOQUANT_INLINE { even[v] = odd[v] = Floats::zero(); });
    };
    const auto recall = [&](int64_t i, Floats* sum) TURBOQUANT_INLINE {
      const Floats key = Floats::all(k[i]);
      unroll<kVectors>([&](auto v)
                           TURBOQUANT_INLINE { sum[v] = fma(load(memory + i * d.state_stride, v), key, sum[v]); });
    };
    const auto update = [&](int64_t i, Floats* sum) TURBOQUANT_INLINE {
      const Floats key = Floats::all(k[i]), query = Floats::all(q[i]);
      float* row = memory + i * d.state_stride;
      unroll<kVectors>([&](auto v) TURBOQUANT_INLINE {
        const Floats s = fma(key, change[v], load(row, v) * decay);
        store(s, row, v);
        sum[v] = fma(s, query, sum[v]);
      });
    };
    clear();
    int64_t i = 0;
    for (; i + 2 <= d.key_dim; i += 2) {
      recall(i, even);
      recall(i + 1, odd);
    }
    if (i < d.key_dim) recall(i, even);
    const float* value = d.v + t * d.v_stride + first;
    unroll<kVectors>([&](auto v)
                         TURBOQUANT_INLINE { change[v] = (load(value, v) - decay * (even[v] + odd[v])) * beta; });
    clear();
    for (i = 0; i + 2 <= d.key_dim; i += 2) {
      update(i, even);
      update(i + 1, odd);
    }
    if (i < d.key_dim) update(i, even);
    float* out = d.out + t * d.out_stride + first;
    unroll<kVectors>([&](auto v) TURBOQUANT_INLINE { store(even[v] + odd[v], out, v); });
  }
}

void gated_delta(const DeltaColumns& d) {
  constexpr int kVectors = Floats::kRegisters == 32 ? 4 : 2;
  int64_t c = 0;
  for (; c + kVectors * kWidth <= d.columns; c += kVectors * kWidth) delta_columns<kVectors, true>(d, c, kWidth);
  for (; c + kWidth <= d.columns; c += kWidth) delta_columns<1, true>(d, c, kWidth);
  if (c < d.columns) delta_columns<1, false>(d, c, d.columns - c);
}

}  // namespace
}  // namespace turboquant
