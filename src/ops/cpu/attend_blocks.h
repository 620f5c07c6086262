// Attention over a span of blocks of compressed keys and values, compiled once an instruction set. Scores
// are integer dot products of an int8 query with the levels that the codes stand for. A token's weight, probability
// times scale of its value, becomes a whole number of 14 bits, relative to the span's largest, in two bytes of 7:
// values, too, are summed by integer dot products. Every row is computed alike, whatever the rows beside it are.
#pragma once

#include "core/simd.h"
#include "core/unroll.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/online_softmax.h"
#include "quant/kv.h"

namespace turboquant {
namespace {

constexpr int kTokens = static_cast<int>(kKvBlockTokens);
constexpr int kSpanTokens = kSpanBlocks * kTokens;
constexpr int kLargestWeight = 16383;
static_assert(int64_t{kSpanTokens} * kLargestWeight * 255 < int64_t{1} << 31);  // sums of values fit

inline uint64_t word(const uint8_t* p) {
  uint64_t w;
  __builtin_memcpy(&w, p, 8);
  return w;
}

/// Of one vector the trellis bits as an index needs them: u[t-1], and u[t] ^ u[t-2].
struct TrellisMasks {
  uint64_t before, changed;
};

/// The masks of a tile of keys, 16 tokens, vector by vector. The byte before the first of a token is its last.
class KeyMasks {
 public:
  KeyMasks() = default;
  /// u of the tile's n vectors.
  KeyMasks(const uint8_t* words, int64_t n)
      : words_(words), one_before_(left(word(words + 8 * n - 8))), two_before_(left(word(words + 8 * n - 16))) {}

  TrellisMasks next() {
    const uint64_t u = word(words_);
    const TrellisMasks masks{one_before_, u ^ two_before_};
    words_ += 8;
    two_before_ = one_before_;
    one_before_ = u;
    return masks;
  }

 private:
  static uint64_t left(uint64_t x) {
    constexpr uint64_t kUpper = 0xEEEEEEEEEEEEEEEE;
    return ((x << 1) & kUpper) | ((x >> 3) & ~kUpper);
  }

  const uint8_t* words_ = nullptr;
  uint64_t one_before_ = 0, two_before_ = 0;
};

/// The masks of a tile of values, 16 coordinates: 16 vectors of tokens. The lane before the first is the last.
class ValueMasks {
 public:
  /// u of all tiles.
  ValueMasks(const uint8_t* words, int64_t tiles, int64_t tile)
      : now_(words + 128 * tile), one_before_(now_ - 128), two_before_(now_ - 256) {
    if (tile > 1) return;
    // Tiles -1 and -2 are the last ones, turned by a lane.
    wrap(words + 128 * (tiles - 1), wrapped_[1]);
    wrap(tiles == 1 ? reinterpret_cast<const uint8_t*>(wrapped_[1]) : words + 128 * (tiles - 2), wrapped_[0]);
    two_before_ = reinterpret_cast<const uint8_t*>(wrapped_[tile]);
    if (tile == 0) one_before_ = reinterpret_cast<const uint8_t*>(wrapped_[1]);
  }
  ValueMasks(const ValueMasks&) = delete;
  ValueMasks& operator=(const ValueMasks&) = delete;

  TrellisMasks at(int64_t v) const {
    return {word(one_before_ + 8 * v), word(now_ + 8 * v) ^ word(two_before_ + 8 * v)};
  }

 private:
  static void wrap(const uint8_t* from, uint64_t* to) {
    for (int i = 0; i < 16; ++i) {
      const uint64_t x = word(from + 8 * i);
      to[i] = x << 4 | x >> 60;
    }
  }

  const uint8_t *now_, *one_before_, *two_before_;
  uint64_t wrapped_[2][16];
};

/// Fetches part `index` of `count` of some memory. A block is too short for the processor to guess what comes, and all
/// lines at once would wait for each other: keys are fetched while values are at work, and values while keys are.
/// Always inlined: GCC drops calls of a function that does nothing but prefetch.
inline __attribute__((always_inline)) void fetch(const uint8_t* from, int64_t bytes, int64_t index, int64_t count) {
  const int64_t lines = (bytes + 63) / 64;
  for (int64_t i = lines * index / count; i < lines * (index + 1) / count; ++i) __builtin_prefetch(from + 64 * i);
}

/// 2^x for x <= 0, within 3e-6 of it; 0 far below.
inline Floats exp2_of_negative(Floats x) {
#if defined(__AVX512F__)
  const Floats n = x.round(), r = x - n;
#else
  const Floats y = max(x, Floats::all(-126.0F)), n = y.round(), r = y - n;
#endif
  Floats p = Floats::all(1.33335581e-3F);
  p = fma(p, r, Floats::all(9.61812911e-3F));
  p = fma(p, r, Floats::all(5.55041087e-2F));
  p = fma(p, r, Floats::all(2.40226507e-1F));
  p = fma(p, r, Floats::all(6.93147181e-1F));
  p = fma(p, r, Floats::all(1.0F));
#if defined(__AVX512F__)
  return {_mm512_scalef_ps(p.v, n.v)};
#else
  return p * n.exp2_whole();
#endif
}

/// Where the integers of a span are: in codes of so many bits, or decoded, which is what 8-bit codes are.
struct SpanSides {
  int key_bits, value_bits;
  const uint8_t *keys[kSpanBlocks], *values[kSpanBlocks];
  bool panel;  // in nearer memory
};

/// What the passes over a span hand on to each other.
template <int kRows>
struct SpanRows {
  const int8_t* q[kRows];
  alignas(64) int32_t score[kRows][kSpanTokens];      // sum of q * (level + bias)
  alignas(64) uint8_t weight[2][kRows][kSpanTokens];  // upper and lower 7 bits
  alignas(64) int32_t values[kRows][kKvMaxHeadDim];   // sum of weight * (level + bias)
};

/// What is fetched while a block's keys are at work.
struct KeyFetch {
  const uint8_t *values, *keys;  // of this block; of the next one; or null
  int64_t value_bytes, key_bytes;

  __attribute__((always_inline)) void step(int64_t index, int64_t count) const {
    if (keys != nullptr) fetch(keys, key_bytes, index, count);
    if (values != nullptr) fetch(values, value_bytes, index, count);
  }
};

template <class Codes, int kRows>
void key_sums(int bits, const uint8_t* keys, int64_t dim, int64_t token, SpanRows<kRows>& rows, const KeyFetch& fetch) {
  if (bits == 4) return Codes::template sum_keys<4, kRows>(keys, dim, token, rows, fetch);
  if (bits == 3) return Codes::template sum_keys<3, kRows>(keys, dim, token, rows, fetch);
  if (bits == 2) return Codes::template sum_keys<2, kRows>(keys, dim, token, rows, fetch);
  Codes::template sum_keys<8, kRows>(keys, dim, token, rows, fetch);
}

template <class Codes, int kRows>
void value_sums(const AttendBlocks& a, const SpanSides& sides, SpanRows<kRows>& rows) {
  if (sides.value_bits == 4) return Codes::template sum_values<4, kRows>(a, sides, rows);
  if (sides.value_bits == 3) return Codes::template sum_values<3, kRows>(a, sides, rows);
  if (sides.value_bits == 2) return Codes::template sum_values<2, kRows>(a, sides, rows);
  Codes::template sum_values<8, kRows>(a, sides, rows);
}

template <class Codes, int kRows>
void attend_blocks_rows(const AttendBlocks& a, const SpanSides& sides, int64_t first) {
  const int64_t dim = a.head_dim, side = kv_side_bytes(a.key_bits, dim);
  SpanRows<kRows> rows;
  for (int r = 0; r < kRows; ++r) rows.q[r] = a.q + (first + r) * dim;
  for (int64_t block = 0; block < a.count; ++block) {
    const uint8_t* next = sides.panel || a.fetched || block + 1 == a.count ? nullptr : a.blocks[block + 1];
    key_sums<Codes, kRows>(sides.key_bits, sides.keys[block], dim, block * kTokens, rows,
                           {sides.panel ? nullptr : sides.values[block], next, kv_side_bytes(a.value_bits, dim), side});
  }
  const auto result = [&](int r) { return a.results + (first + r) * (kKeyLanes + dim); };

  const auto tokens = static_cast<int>(a.count * kTokens), hidden = static_cast<int>(a.hidden);
  float factor[kRows];
  int32_t weight_sum[kRows];
  for (int r = 0; r < kRows; ++r) {
    alignas(64) float p[kSpanTokens];
    constexpr float kLog2E = 1.44269504F, kLn2 = 0.693147181F;  // scores are to the base 2 here
    const Floats scale = Floats::all(a.q_scale[first + r] * kv_unit(a.key_bits) * kLog2E),
                 lowest = Floats::all(kNoScore);
    const Floats offset = Floats::all(static_cast<float>(Codes::kBias * a.q_sum[first + r]));
    const auto largest_score = [&](auto bounded) TURBOQUANT_INLINE {
      Floats m = lowest;
      for (int t = 0; t < tokens; t += kWidth) {
        const auto* scales =
            reinterpret_cast<const uint16_t*>(a.blocks[t / kTokens] + kv_scales_offset(a.key_bits, dim));
        // Whole numbers below 2^24: the difference is exact.
        Floats s = bounded((Floats::load_difference(rows.score[r] + t, 0) - offset) * scale *
                           Floats::load_half(scales + t % kTokens));
        if (t < hidden) s = lowest.keep_first(hidden - t, s);
        s.store(p + t);
        m = max(m, s);
      }
      return m.largest();
    };
    const float largest = a.softcap > 0 ? largest_score(SoftCap(a.softcap * kLog2E))
                                        : largest_score([](Floats s) TURBOQUANT_INLINE { return s; });
    Floats total = Floats::zero(), heaviest = Floats::zero();
    for (int t = 0; t < tokens; t += kWidth) {
      const auto* scales =
          reinterpret_cast<const uint16_t*>(a.blocks[t / kTokens] + side + kv_scales_offset(a.value_bits, dim));
      Floats e = exp2_of_negative(Floats::load(p + t) - Floats::all(largest));
      if (t < hidden) e = Floats::zero().keep_first(hidden - t, e);
      const Floats w = e * Floats::load_half(scales + t % kTokens);
      w.store(p + t);
      total = total + e;
      heaviest = max(heaviest, w);
    }
    const float weight = heaviest.largest();
    result(r)[0] = largest * kLn2;
    result(r)[1] = total.sum();
    factor[r] = weight * kv_unit(a.value_bits) / kLargestWeight;
    const float inverse = weight > 1e-30F ? kLargestWeight / weight : 0.0F;
    weight_sum[r] = Codes::split_weights(p, tokens, inverse, rows.weight[0][r], rows.weight[1][r]);
  }

  value_sums<Codes, kRows>(a, sides, rows);
  for (int r = 0; r < kRows; ++r) {
    const Floats scale = Floats::all(factor[r]);
    for (int64_t d = 0; d < dim; d += kWidth)
      (Codes::load_difference(rows.values[r] + d, Codes::kBias * weight_sum[r]) * scale)
          .store(result(r) + kKeyLanes + d);
  }
}

/// Decodes a side to what it would be in 8 bits, without the scales.
template <class Codes, int kBits>
void decode_side(KvSide side, const uint8_t* codes, int64_t dim, uint8_t* out) {
  const uint8_t* words = codes + kv_trellis_offset(kBits, dim);
  for (int half = 0; half < Codes::kHalves; ++half) {
    const auto decoder = Codes::template decoder<kBits>(codes, dim, half);
    const auto tile = [&](int64_t begin, int64_t count, auto&& masks) TURBOQUANT_INLINE {
      for (int64_t v = 0; v < count; v += 4)
        unroll<4>([&](auto j) TURBOQUANT_INLINE {
          Codes::store(decoder.template vector<j()>(begin + v, masks(v + j)),
                       out + 64 * (begin + v + j) + 64 / Codes::kHalves * half);
        });
    };
    if (side == KvSide::keys) {
      const int64_t n = dim / 4;
      for (int i = 0; i < 4; ++i) {
        KeyMasks masks(words + 8 * i * n, n);
        tile(i * n, n, [&](int64_t) TURBOQUANT_INLINE { return masks.next(); });
      }
    } else {
      for (int64_t i = 0; i < dim / 16; ++i) {
        const ValueMasks masks(words, dim / 16, i);
        tile(16 * i, 16, [&](int64_t v) TURBOQUANT_INLINE { return masks.at(v); });
      }
    }
  }
}

template <class Codes>
void decode_side(KvSide side, int bits, const uint8_t* codes, int64_t dim, uint8_t* out) {
  if (bits == 4) return decode_side<Codes, 4>(side, codes, dim, out);
  if (bits == 3) return decode_side<Codes, 3>(side, codes, dim, out);
  decode_side<Codes, 2>(side, codes, dim, out);
}

// Each number of rows compiles all kernels anew, which takes minutes under a sanitizer: there, the most and single
// ones.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kFewKernels = true;
#else
constexpr bool kFewKernels = false;
#endif

/// The rows from `r` on, so many at once as long as there are as many.
template <class Codes, int kRows>
void attend_rows_by(const AttendBlocks& a, const SpanSides& sides, int64_t r) {
  for (; r + kRows <= a.rows; r += kRows) attend_blocks_rows<Codes, kRows>(a, sides, r);
  if constexpr (kRows > 1) attend_rows_by<Codes, kFewKernels ? 1 : kRows - 1>(a, sides, r);
}

template <class Codes>
void attend_blocks_any(const AttendBlocks& a) {
  SpanSides sides{a.key_bits, a.value_bits, {}, {}, a.panel != nullptr && a.rows > Codes::kMostRows};
  for (int64_t i = 0; i < a.count; ++i) {
    sides.keys[i] = a.blocks[i];
    sides.values[i] = a.blocks[i] + kv_side_bytes(a.key_bits, a.head_dim);
  }
  if (sides.panel) {
    const auto decode = [&](KvSide side, int& bits, const uint8_t** codes, uint8_t* panel) {
      if (bits == 8) return;
      for (int64_t i = 0; i < a.count; ++i, panel += kTokens * a.head_dim) {
        decode_side<Codes>(side, bits, codes[i], a.head_dim, panel);
        codes[i] = panel;
      }
      bits = 8;
    };
    decode(KvSide::keys, sides.key_bits, sides.keys, a.panel);
    decode(KvSide::values, sides.value_bits, sides.values, a.panel + a.count * kTokens * a.head_dim);
  }
  attend_rows_by<Codes, Codes::kMostRows>(a, sides, 0);
}

}  // namespace
}  // namespace turboquant
