// The floating-point kernels over core/simd.h, compiled once an instruction set.
#pragma once

#include "core/simd.h"
#include "core/unroll.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/online_softmax.h"

namespace turboquant {
namespace {

int64_t peak_f32(int64_t repeats) {
  constexpr int kChains = 12;  // more than latency times instructions a cycle
  Floats acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = Floats::all(static_cast<float>(i));
  volatile float given = 0.5F;  // not known to the compiler
  const Floats a = Floats::all(given), b = Floats::all(given);
  for (int64_t r = 0; r < repeats; ++r) unroll<kChains>([&](auto i) TURBOQUANT_INLINE { acc[i] = fma(acc[i], a, b); });
  float sum = 0;
  for (const Floats& x : acc) sum += x.sum();
  given = sum;
  return repeats * kChains * kWidth;
}

float stream_sum(const float* x, int64_t n) {
  constexpr int kStreams = 8;
  Floats acc[kStreams];
  for (Floats& a : acc) a = Floats::zero();
  for (int64_t i = 0; i < n; i += kStreams * kWidth)
    unroll<kStreams>([&](auto k) TURBOQUANT_INLINE { acc[k] = acc[k] + Floats::load(x + i + k * kWidth); });
  for (int k = 1; k < kStreams; ++k) acc[0] = acc[0] + acc[k];
  return acc[0].sum();
}

void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  Floats squares = Floats::zero();
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Floats v = Floats::load(x + i);
    squares = fma(v, v, squares);
  }
  if (i < n) {
    const Floats v = load_first(x + i, n - i);
    squares = fma(v, v, squares);
  }
  const float scale = 1.0F / __builtin_sqrtf(squares.sum() / static_cast<float>(n) + eps);
  const Floats s = Floats::all(scale);
  for (i = 0; i + kWidth <= n; i += kWidth) (Floats::load(x + i) * s * Floats::load(weight + i)).store(out + i);
  if (i < n) store_first(load_first(x + i, n - i) * s * load_first(weight + i, n - i), out + i, n - i);
}

// Below -100 silu is 0 up to rounding, but exp ends at e^88, so the gate may not grow on (a NaN stays one).
inline Floats silu_times(Floats gate, Floats up) {
  return max(Floats::all(-100.0F), gate) / (Floats::all(1.0F) + exp(Floats::zero() - gate)) * up;
}

void swiglu(const float* gate, const float* up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) silu_times(Floats::load(gate + i), Floats::load(up + i)).store(out + i);
  if (i < n) store_first(silu_times(load_first(gate + i, n - i), load_first(up + i, n - i)), out + i, n - i);
}

struct ClampedSwiglu {
  Floats alpha, limit;

  // As silu_times: below -100 the sigmoid is 0 up to rounding. A minimum is a maximum of negatives.
  Floats operator()(Floats gate, Floats up) const {
    const Floats zero = Floats::zero(), one = Floats::all(1.0F), low = zero - limit;
    const Floats g = zero - max(low, zero - gate), u = max(low, zero - max(low, zero - up));
    const Floats x = max(Floats::all(-100.0F), alpha * g);
    return max(Floats::all(-100.0F), g) / (one + exp(zero - x)) * (u + one);
  }
};

void clamped_swiglu(const float* gate, const float* up, int64_t n, float alpha, float limit, float* out) {
  const ClampedSwiglu f{Floats::all(alpha), Floats::all(limit)};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) f(Floats::load(gate + i), Floats::load(up + i)).store(out + i);
  if (i < n) store_first(f(load_first(gate + i, n - i), load_first(up + i, n - i)), out + i, n - i);
}

void add(const float* a, const float* b, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) (Floats::load(a + i) + Floats::load(b + i)).store(out + i);
  for (; i < n; ++i) out[i] = a[i] + b[i];
}

void rope(const float* x, const float* cos, const float* sin, int64_t heads, int64_t head_dim, float* out) {
  const int64_t half = head_dim / 2;
  for (int64_t h = 0; h < heads; ++h, x += head_dim, out += head_dim) {
    int64_t i = 0;
    for (; i + kWidth <= half; i += kWidth) {
      const Floats a = Floats::load(x + i), b = Floats::load(x + half + i);
      const Floats c = Floats::load(cos + i), s = Floats::load(sin + i);
      (a * c - b * s).store(out + i);
      (b * c + a * s).store(out + half + i);
    }
    for (; i < half; ++i) {
      const float a = x[i], b = x[half + i];
      out[i] = a * cos[i] - b * sin[i];
      out[half + i] = b * cos[i] + a * sin[i];
    }
  }
}

void softmax(const float* x, int64_t n, float* out) {
  float largest = x[0];
  int64_t i = 0;
  if (n >= kWidth) {
    Floats m = Floats::load(x);
    for (i = kWidth; i + kWidth <= n; i += kWidth) m = max(m, Floats::load(x + i));
    largest = m.largest();
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  const Floats m = Floats::all(largest);
  Floats total = Floats::zero();
  for (i = 0; i + kWidth <= n; i += kWidth) {
    const Floats e = exp(Floats::load(x + i) - m);
    e.store(out + i);
    total = total + e;
  }
  if (i < n) {
    const Floats e = exp(load_first(x + i, n - i) - m).keep_first(static_cast<int>(n - i), Floats::zero());
    store_first(e, out + i, n - i);
    total = total + e;
  }
  const Floats inverse = Floats::all(1.0F / total.sum());
  for (i = 0; i + kWidth <= n; i += kWidth) (Floats::load(out + i) * inverse).store(out + i);
  if (i < n) store_first(load_first(out + i, n - i) * inverse, out + i, n - i);
}

void quantize(const float* x, int64_t n, int8_t* q, float* scale, int32_t* sum) {
  Floats m = Floats::zero();
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) m = max(m, Floats::load(x + i).abs());
  if (i < n) m = max(m, load_first(x + i, n - i).abs());
  const float largest = m.largest();
  *scale = largest / 127.0F;
  const Floats inverse = Floats::all(largest > kSmallestQuantized ? 127.0F / largest : 0.0F);
  Floats total = Floats::zero();  // whole numbers below 2^24: exact
  for (i = 0; i + kWidth <= n; i += kWidth) {
    const Floats r = (Floats::load(x + i) * inverse).round();
    r.store_int8(q + i);
    total = total + r;
  }
  if (i < n) {
    const Floats r = (load_first(x + i, n - i) * inverse).round();
    alignas(64) int8_t buffer[16];
    r.store_int8(buffer);
    for (int64_t k = 0; i + k < n; ++k) q[i + k] = buffer[k];
    total = total + r;
  }
  *sum = static_cast<int32_t>(total.sum());
}

void scale_tile(const ScaleTile& tile) {
  constexpr int kParts = static_cast<int>(16 / kWidth);
  Floats scales[kParts], offsets[kParts];
  unroll<kParts>([&](auto i) TURBOQUANT_INLINE {
    scales[i] = Floats::load_half(tile.scales + i * kWidth);
    offsets[i] = tile.offsets == nullptr ? Floats::zero() : Floats::load(tile.offsets + i * kWidth);
  });
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const int32_t correction = tile.bias * tile.x_sums[t];
    const Floats x_scale = Floats::all(tile.x_scales[t]);
    unroll<kParts>([&](auto i) TURBOQUANT_INLINE {
      Floats x =
          Floats::load_difference(tile.sums + t * tile.sums_stride + i * kWidth, correction) * (scales[i] * x_scale);
      if (tile.offsets != nullptr) x = x + offsets[i];
      x.store(tile.out + t * tile.out_stride + i * kWidth);
    });
  }
}

// ---------------------------------------------------------------- dense products
struct LoadF32 {
  using Type = float;
  static Floats load(const float* p) { return Floats::load(p); }
  static Floats load_first(const float* p, int64_t n) { return turboquant::load_first(p, n); }
};
struct LoadF16 {
  using Type = uint16_t;
  static Floats load(const uint16_t* p) { return Floats::load_half(p); }
  static Floats load_first(const uint16_t* p, int64_t n) {
    alignas(64) uint16_t buffer[kWidth] = {};
    for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
    return Floats::load_half(buffer);
  }
};
struct LoadBF16 {
  using Type = uint16_t;
  static Floats load(const uint16_t* p) { return Floats::load_bfloat(p); }
  static Floats load_first(const uint16_t* p, int64_t n) {
    alignas(64) uint16_t buffer[kWidth] = {};
    for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
    return Floats::load_bfloat(buffer);
  }
};

template <typename Load, int kRows, int kTokens>
void dense_block(const typename Load::Type* weight, int64_t cols, const float* x, float* out, int64_t out_stride) {
  Floats acc[kRows * kTokens];
  unroll<kRows * kTokens>([&](auto i) TURBOQUANT_INLINE { acc[i] = Floats::zero(); });
  int64_t k = 0;
  for (; k + kWidth <= cols; k += kWidth) {
    Floats w[kRows];
    unroll<kRows>([&](auto r) TURBOQUANT_INLINE { w[r] = Load::load(weight + r * cols + k); });
    unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
      const Floats v = Floats::load(x + t * cols + k);
      unroll<kRows>([&](auto r) TURBOQUANT_INLINE { acc[r * kTokens + t] = fma(w[r], v, acc[r * kTokens + t]); });
    });
  }
  if (k < cols)
    unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
      const Floats v = load_first(x + t * cols + k, cols - k);
      unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
        acc[r * kTokens + t] = fma(Load::load_first(weight + r * cols + k, cols - k), v, acc[r * kTokens + t]);
      });
    });
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    unroll<kRows>([&](auto r) TURBOQUANT_INLINE { out[t * out_stride + r] = acc[r * kTokens + t].sum(); });
  });
}

template <typename Load, int kTokens>
void dense_tokens(const typename Load::Type* weight, int64_t rows, int64_t cols, const float* x, float* out,
                  int64_t out_stride) {
  constexpr int kRows = Floats::kRegisters == 32 ? 4 : 2;
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    dense_block<Load, kRows, kTokens>(weight + r * cols, cols, x, out + r, out_stride);
  for (; r < rows; ++r) dense_block<Load, 1, kTokens>(weight + r * cols, cols, x, out + r, out_stride);
}

template <typename Load>
void dense(const void* weight, int64_t rows, int64_t cols, const float* x, int64_t tokens, float* out,
           int64_t out_stride) {
  constexpr int kTokens = Floats::kRegisters == 32 ? 6 : 4;
  const auto* w = static_cast<const typename Load::Type*>(weight);
  int64_t t = 0;
  for (; t + kTokens <= tokens; t += kTokens)
    dense_tokens<Load, kTokens>(w, rows, cols, x + t * cols, out + t * out_stride, out_stride);
  for (; t < tokens; ++t) dense_tokens<Load, 1>(w, rows, cols, x + t * cols, out + t * out_stride, out_stride);
}

// ---------------------------------------------------------------- attention
// Scores of 16 tokens are one vector (AVX2: two, NEON: four) and are summed over the coordinates in order; a block of
// 64 tokens updates the running maximum once. Blocks lie at fixed places of the context, and tokens that a row may not
// see add exact zeros, so a row's result does not depend on the rows beside it or on how the prompt was cut.
constexpr int kBlockTokens = 64;

template <typename Load, int kRows>
void attend_rows(const AttendPage& page, int first) {
  using Type = typename Load::Type;
  constexpr int kVectors = kBlockTokens / kWidth;
  constexpr int kLaneVectors = kKeyLanes / kWidth;
  constexpr int64_t kLine = 64 / sizeof(Type);
  const auto* keys = static_cast<const Type*>(page.keys);
  const auto* values = static_cast<const Type*>(page.values);
  const int64_t dim = page.head_dim;
  int64_t hidden[kRows] = {}, longest = 0, shared_hidden = kPageTokens;
  for (int r = 0; r < kRows; ++r) {
    if (page.hidden != nullptr) hidden[r] = page.hidden[first + r];
    shared_hidden = hidden[r] < shared_hidden ? hidden[r] : shared_hidden;
    page.maximum[first + r] = kNoScore;
    page.sum[first + r] = 0;
    for (int64_t d = 0; d < dim; d += kWidth) Floats::zero().store(page.values_sum[first + r] + d);
  }
  for (int r = 0; r < kRows; ++r) longest = page.limit[first + r] > longest ? page.limit[first + r] : longest;

  for (int64_t begin = shared_hidden / kBlockTokens * kBlockTokens; begin < longest; begin += kBlockTokens) {
    alignas(64) float p[kRows][kBlockTokens];
    for (int64_t lanes = 0; lanes < kBlockTokens && begin + lanes < longest; lanes += kKeyLanes) {
      Floats score[kRows][kLaneVectors];
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kLaneVectors; ++v) score[r][v] = Floats::zero();
      const Type* key = keys + (begin + lanes) * dim;
      // What is read next: the values of these tokens, and the next keys. The runs are too short for the processor.
      const int64_t here = kKeyLanes * dim;
      const bool more = begin + lanes + kKeyLanes < longest;
      for (int64_t i = 0; i < here; i += kLine) {
        __builtin_prefetch(values + (begin + lanes) * dim + i);
        if (more) __builtin_prefetch(key + here + i);
      }
      for (int64_t d = 0; d < dim; ++d)
        for (int v = 0; v < kLaneVectors; ++v) {
          const Floats k = Load::load(key + d * kKeyLanes + v * kWidth);
          for (int r = 0; r < kRows; ++r) score[r][v] = fma(Floats::all(page.q[first + r][d]), k, score[r][v]);
        }
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kLaneVectors; ++v) (score[r][v] * Floats::all(page.scale)).store(p[r] + lanes + v * kWidth);
    }
    const int64_t present = longest - begin < kBlockTokens ? longest - begin : kBlockTokens;
    for (int r = 0; r < kRows; ++r) {
      const int64_t visible = page.limit[first + r] - begin, before_window = hidden[r] - begin;
      if (visible <= 0 || before_window >= visible) {
        for (int64_t t = 0; t < present; ++t) p[r][t] = 0;
        continue;
      }
      // What a row sees of a vector: neither behind its own position nor before its window.
      const auto seen = [&](Floats x, int v, Floats otherwise) TURBOQUANT_INLINE {
        const Floats upper = x.keep_first(static_cast<int>(visible - v * kWidth), otherwise);
        return otherwise.keep_first(static_cast<int>(before_window - v * kWidth), upper);
      };
      if (page.softcap > 0) {
        const SoftCap cap(page.softcap);
        for (int v = 0; v < kVectors && v * kWidth < visible; ++v)
          cap(Floats::load(p[r] + v * kWidth)).store(p[r] + v * kWidth);
      }
      const Floats lowest = Floats::all(kNoScore);
      Floats m = lowest;
      for (int v = 0; v < kVectors; ++v)
        if (v * kWidth < visible) m = max(m, seen(Floats::load(p[r] + v * kWidth), v, lowest));
      const float before = page.maximum[first + r];
      const float largest = m.largest() > before ? m.largest() : before;
      Floats total = Floats::zero();
      for (int v = 0; v < kVectors; ++v) {
        Floats e = Floats::zero();
        if (v * kWidth < visible)
          e = seen(exp(Floats::load(p[r] + v * kWidth) - Floats::all(largest)), v, Floats::zero());
        e.store(p[r] + v * kWidth);
        total = total + e;
      }
      float* sum = page.values_sum[first + r];
      if (largest > before) {
        const float keep = exp_difference(before, largest);
        page.maximum[first + r] = largest;
        page.sum[first + r] *= keep;
        for (int64_t d = 0; d < dim; d += kWidth) (Floats::load(sum + d) * Floats::all(keep)).store(sum + d);
      }
      page.sum[first + r] += total.sum();
    }
    const Type* value = values + begin * dim;
    for (int64_t d = 0; d < dim; d += kKeyLanes) {  // several sums side by side: each waits for its last addition
      Floats acc[kRows][kLaneVectors];
      const auto each_sum = [&](const auto& use) TURBOQUANT_INLINE {
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
          unroll<kLaneVectors>([&](auto v)
                                   TURBOQUANT_INLINE { use(r, v, page.values_sum[first + r] + d + v * kWidth); });
        });
      };
      each_sum([&](auto r, auto v, const float* sum) TURBOQUANT_INLINE { acc[r][v] = Floats::load(sum); });
      for (int64_t t = 0; t < present; ++t)
        unroll<kLaneVectors>([&](auto v) TURBOQUANT_INLINE {
          const Floats x = Load::load(value + t * dim + d + v * kWidth);
          unroll<kRows>([&](auto r) TURBOQUANT_INLINE { acc[r][v] = fma(Floats::all(p[r][t]), x, acc[r][v]); });
        });
      each_sum([&](auto r, auto v, float* sum) TURBOQUANT_INLINE { acc[r][v].store(sum); });
    }
  }
}

template <typename Load>
void attend_page(const AttendPage& page) {
  int r = 0;
  for (; r + 4 <= page.rows; r += 4) attend_rows<Load, 4>(page, r);
  for (; r + 3 <= page.rows; r += 3) attend_rows<Load, 3>(page, r);
  for (; r + 2 <= page.rows; r += 2) attend_rows<Load, 2>(page, r);
  for (; r < page.rows; ++r) attend_rows<Load, 1>(page, r);
}

void attend_merge(float* maximum, float* sum, float* values, float page_maximum, float page_sum,
                  const float* page_values, int64_t head_dim) {
  if (page_sum == 0) return;
  const float largest = page_maximum > *maximum ? page_maximum : *maximum;
  const float keep = exp_difference(*maximum, largest), take = exp_difference(page_maximum, largest);
  *maximum = largest;
  *sum = *sum * keep + page_sum * take;
  for (int64_t d = 0; d < head_dim; d += kWidth)
    fma(Floats::load(page_values + d), Floats::all(take), Floats::load(values + d) * Floats::all(keep))
        .store(values + d);
}

}  // namespace
}  // namespace turboquant
