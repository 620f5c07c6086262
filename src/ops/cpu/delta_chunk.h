// The gated delta rule by chunks of tokens, over core/simd.h, compiled once an instruction set. What is
// computed is said at DeltaChunk (kernels.h). Every sum is one chain of multiply-adds in ascending order, whichever
// rows are computed together, so that a token's bits do not depend on which tokens come with it.
#pragma once

#include "core/simd.h"
#include "core/unroll.h"
#include "ops/cpu/kernels.h"

namespace turboquant {
namespace {

/// sums[r][v] += x[r][i * step] * b[i * stride + v], i = 0 .. n, for kRows rows and kVectors vectors, or, of a single
/// vector, its first `lanes`.
template <int kRows, int kVectors, bool kWhole>
inline __attribute__((always_inline)) void add_products(const float* const* x, int64_t step, const float* b,
                                                        int64_t stride, int64_t n, int64_t lanes,
                                                        Floats (&sums)[kRows][kVectors]) {
  for (int64_t i = 0; i < n; ++i) {
    Floats row[kVectors];
    unroll<kVectors>([&](auto v) TURBOQUANT_INLINE {
      row[v] = kWhole ? Floats::load(b + i * stride + v * Floats::kWidth) : load_first(b + i * stride, lanes);
    });
    unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
      const Floats factor = Floats::all(x[r][i * step]);
      unroll<kVectors>([&](auto v) TURBOQUANT_INLINE { sums[r][v] = fma(factor, row[v], sums[r][v]); });
    });
  }
}

/// Rows [row, row + kRows) of the chunk: products of their keys and queries with all keys up to theirs, weighted.
template <int kRows>
void delta_weights(const DeltaChunk& d, int64_t row) {
  constexpr int kWidth = Floats::kWidth, kVectors = kDeltaChunk % (2 * kWidth) == 0 ? 2 : 1;
  const float* x[2 * kRows];
  unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
    x[r] = d.k + (row - d.begin + r) * d.qk_stride;
    x[kRows + r] = d.q + (row - d.begin + r) * d.qk_stride;
  });
  for (int64_t j = 0; j < row + kRows; j += kVectors * kWidth) {
    Floats sums[2 * kRows][kVectors];
    unroll<2 * kRows>([&](auto r) TURBOQUANT_INLINE {
      unroll<kVectors>([&](auto v) TURBOQUANT_INLINE { sums[r][v] = Floats::zero(); });
    });
    add_products<2 * kRows, kVectors, true>(x, 1, d.keys + j, kDeltaChunk, d.key_dim, kWidth, sums);
    unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
      const int64_t i = row + r;
      const Floats own = Floats::all(d.decays[i]), beta = Floats::all(-d.beta[(i - d.begin) * d.gate_stride]);
      unroll<kVectors>([&](auto v) TURBOQUANT_INLINE {
        const int64_t at = j + v * kWidth;
        const Floats decay = exp(own - Floats::load(d.decays + at));
        (beta * decay * sums[r][v]).store(d.key_weights + i * kDeltaChunk + at);
        (decay * sums[kRows + r][v]).store(d.query_weights + i * kDeltaChunk + at);
      });
    });
  }
}

/// Changes and results of rows [row, row + kRows) in some columns.
template <int kRows, int kVectors, bool kWhole>
void delta_rows(const DeltaChunk& d, const float* growth, int64_t row, int64_t column, int64_t lanes) {
  constexpr int kWidth = Floats::kWidth;
  const auto load = [lanes](const float* p, int v)
                        TURBOQUANT_INLINE { return kWhole ? Floats::load(p + v * kWidth) : load_first(p, lanes); };
  const auto store = [lanes](Floats x, float* p, int v) TURBOQUANT_INLINE {
    if (kWhole)
      x.store(p + v * kWidth);
    else
      store_first(x, p, lanes);
  };
  const int64_t first = row - d.begin;  // among the new tokens
  const float *x[2 * kRows], *weights[2 * kRows];
  Floats sums[2 * kRows][kVectors];
  unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
    x[r] = d.k + (first + r) * d.qk_stride;
    x[kRows + r] = d.q + (first + r) * d.qk_stride;
    weights[r] = d.key_weights + (row + r) * kDeltaChunk;
    weights[kRows + r] = d.query_weights + (row + r) * kDeltaChunk;
    unroll<kVectors>([&](auto v) TURBOQUANT_INLINE { sums[r][v] = sums[kRows + r][v] = Floats::zero(); });
  });
  add_products<2 * kRows, kVectors, kWhole>(x, 1, d.memory + column, d.value_dim, d.key_dim, lanes, sums);
  unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
    const Floats decay = Floats::all(growth[row + r]), beta = Floats::all(d.beta[(first + r) * d.gate_stride]);
    const float* value = d.v + (first + r) * d.v_stride + column;
    unroll<kVectors>([&](auto v) TURBOQUANT_INLINE {
      sums[r][v] = (load(value, v) - decay * sums[r][v]) * beta;
      sums[kRows + r][v] = decay * sums[kRows + r][v];
    });
  });
  add_products<2 * kRows, kVectors, kWhole>(weights, 1, d.changes + column, d.value_dim, row, lanes, sums);
  unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
    // The row's own change is complete: those of this block before it have been subtracted.
    unroll<kVectors>([&](auto v)
                         TURBOQUANT_INLINE { store(sums[r][v], d.changes + (row + r) * d.value_dim + column, v); });
    unroll<kRows>([&](auto later) TURBOQUANT_INLINE {
      if constexpr (later > r) {
        const Floats weight = Floats::all(weights[later][row + r]);
        unroll<kVectors>([&](auto v) TURBOQUANT_INLINE { sums[later][v] = fma(weight, sums[r][v], sums[later][v]); });
      }
      if constexpr (later >= r) {
        const Floats weight = Floats::all(weights[kRows + later][row + r]);
        unroll<kVectors>([&](auto v) TURBOQUANT_INLINE {
          sums[kRows + later][v] = fma(weight, sums[r][v], sums[kRows + later][v]);
        });
      }
    });
  });
  unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
    unroll<kVectors>(
        [&](auto v) TURBOQUANT_INLINE { store(sums[kRows + r][v], d.out + (first + r) * d.out_stride + column, v); });
  });
}

/// A full chunk goes into the memory: rows [row, row + kRows) of it, in some columns.
template <int kRows, int kVectors, bool kWhole>
void delta_fold(const DeltaChunk& d, float decay, int64_t row, int64_t column, int64_t lanes) {
  constexpr int kWidth = Floats::kWidth;
  const float* x[kRows];
  Floats sums[kRows][kVectors];
  unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
    x[r] = d.keys + (row + r) * kDeltaChunk;
    const float* memory = d.memory + (row + r) * d.value_dim + column;
    unroll<kVectors>([&](auto v) TURBOQUANT_INLINE {
      sums[r][v] = Floats::all(decay) * (kWhole ? Floats::load(memory + v * kWidth) : load_first(memory, lanes));
    });
  });
  add_products<kRows, kVectors, kWhole>(x, 1, d.changes + column, d.value_dim, kDeltaChunk, lanes, sums);
  unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
    float* memory = d.memory + (row + r) * d.value_dim + column;
    unroll<kVectors>([&](auto v) TURBOQUANT_INLINE {
      if (kWhole)
        sums[r][v].store(memory + v * kWidth);
      else
        store_first(sums[r][v], memory, lanes);
    });
  });
}

template <int kVectors, bool kWhole>
void delta_columns(const DeltaChunk& d, const float* growth, int64_t column, int64_t lanes) {
  const int64_t end = d.begin + d.tokens;
  int64_t row = d.begin;
  for (; row + 2 <= end; row += 2) delta_rows<2, kVectors, kWhole>(d, growth, row, column, lanes);
  if (row < end) delta_rows<1, kVectors, kWhole>(d, growth, row, column, lanes);
  if (end < kDeltaChunk) return;
  constexpr int kRows = 4;
  for (row = 0; row + kRows <= d.key_dim; row += kRows)
    delta_fold<kRows, kVectors, kWhole>(d, growth[kDeltaChunk - 1], row, column, lanes);
  for (; row < d.key_dim; ++row) delta_fold<1, kVectors, kWhole>(d, growth[kDeltaChunk - 1], row, column, lanes);
}

void gated_delta(const DeltaChunk& d) {
  constexpr int kWidth = Floats::kWidth, kVectors = Floats::kRegisters == 32 ? 4 : 2;
  const int64_t end = d.begin + d.tokens;
  for (int64_t t = 0; t < d.tokens; ++t) {
    const int64_t i = d.begin + t;
    d.decays[i] = (i == 0 ? 0.0F : d.decays[i - 1]) + d.log_decay[t * d.gate_stride];
    for (int64_t m = 0; m < d.key_dim; ++m) d.keys[m * kDeltaChunk + i] = d.k[t * d.qk_stride + m];
  }
  alignas(64) float growth[kDeltaChunk],
      rest[kDeltaChunk];  // from the chunk's start to a token, and from it to the end
  for (int64_t j = 0; j < kDeltaChunk; j += kWidth) {
    exp(Floats::load(d.decays + j)).store(growth + j);
    exp(Floats::all(d.decays[kDeltaChunk - 1]) - Floats::load(d.decays + j)).store(rest + j);
  }
  int64_t row = d.begin;
  for (; row + 2 <= end; row += 2) delta_weights<2>(d, row);
  if (row < end) delta_weights<1>(d, row);
  if (end == kDeltaChunk)
    for (int64_t m = 0; m < d.key_dim; ++m)
      for (int64_t j = 0; j < kDeltaChunk; j += kWidth)
        (Floats::load(d.keys + m * kDeltaChunk + j) * Floats::load(rest + j)).store(d.keys + m * kDeltaChunk + j);
  int64_t c = 0;
  for (; c + kVectors * kWidth <= d.value_dim; c += kVectors * kWidth)
    delta_columns<kVectors, true>(d, growth, c, kWidth);
  for (; c + kWidth <= d.value_dim; c += kWidth) delta_columns<1, true>(d, growth, c, kWidth);
  if (c < d.value_dim) delta_columns<1, false>(d, growth, c, d.value_dim - c);
}

}  // namespace
}  // namespace turboquant
