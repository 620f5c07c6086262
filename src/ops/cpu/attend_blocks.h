// Attention over blocks of compressed keys and values, compiled once for AVX2 and once for AVX-512. Scores are integer
// dot products of an int8 query with the levels that the codes stand for. A token's weight, probability times scale of
// its value, becomes a whole number of 14 bits, relative to the block's largest, in two bytes of 7: values, too, are
// summed by integer dot products. Every row is computed alike, whatever the rows beside it are.
#pragma once

#include "core/simd.h"
#include "core/unroll.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/online_softmax.h"
#include "quant/kv.h"

namespace turboquant {
namespace {

constexpr int kTokens = static_cast<int>(kKvBlockTokens);
constexpr float kLargestWeight = 16383.0F;

/// The trellis bits of each vector of a side as an index needs them: u[t-1], and u[t] ^ u[t-2].
struct TrellisMasks {
  // Two vectors before the first of each run, for keys a run a tile of 16 tokens, and all vectors.
  uint64_t u[kKvMaxHeadDim + 32];
  uint64_t changed[kKvMaxHeadDim];

  /// Of keys: runs of `n` vectors. The byte before a token's first is its last.
  static uint64_t nibbles_left(uint64_t x) {
    constexpr uint64_t kUpper = 0xEEEEEEEEEEEEEEEE;
    return ((x << 1) & kUpper) | ((x >> 3) & ~kUpper);
  }
  void load_keys(const uint8_t* words, int64_t n) {
    __builtin_memcpy(u + 2, words, static_cast<size_t>(n) * 8);
    u[0] = nibbles_left(u[n]);
    u[1] = nibbles_left(u[n + 1]);
    for (int64_t v = 0; v < n; ++v) changed[v] = u[v + 2] ^ u[v];
  }
  /// Of values: 16 vectors of tokens a tile of 16 coordinates. The lane before the first is the last.
  void load_values(const uint8_t* words, int64_t tiles) {
    __builtin_memcpy(u + 32, words, static_cast<size_t>(tiles) * 128);
    const auto left = [](uint64_t x, int by) { return x << by | x >> (64 - by); };
    for (int64_t i = 0; i < 16; ++i) {
      const uint64_t last = left(u[16 * (tiles + 1) + i], 4);
      u[16 + i] = last;
      u[i] = tiles == 1 ? left(last, 4) : left(u[16 * tiles + i], 4);
    }
    for (int64_t v = 0; v < 16 * tiles; ++v) changed[v] = u[v + 32] ^ u[v];
  }
};

/// What a block leaves for the rows of a call.
template <int kRows>
struct BlockRows {
  alignas(64) int32_t score[kRows][kTokens];      // sum of q * (level + bias)
  alignas(64) uint8_t weight[kRows][2][kTokens];  // upper and lower 7 bits
  int32_t weight_sum[kRows];
  alignas(64) int32_t values[kRows][kKvMaxHeadDim];  // sum of weight * (level + bias)
};

template <class Codes, int kRows>
void attend_blocks_rows(const AttendBlocks& a, int64_t first) {
  const int64_t dim = a.head_dim;
  const int8_t* q[kRows];
  for (int r = 0; r < kRows; ++r) {
    q[r] = a.q[first + r];
    a.maximum[first + r] = kNoScore;
    a.sum[first + r] = 0;
    for (int64_t d = 0; d < dim; d += kWidth) Floats::zero().store(a.values_sum[first + r] + d);
  }
  const Floats key_unit = Floats::all(kv_unit(a.key_bits));
  const float value_unit = kv_unit(a.value_bits) / kLargestWeight;
  const int64_t side = kv_side_bytes(a.key_bits, dim), bytes = side + kv_side_bytes(a.value_bits, dim);
  BlockRows<kRows> rows;
  for (int64_t block = 0; block < a.count; ++block) {
    const uint8_t *keys = a.blocks[block], *values = keys + side;
    if (block + 1 < a.count)
      for (int64_t i = 0; i < bytes; i += 64)
        _mm_prefetch(reinterpret_cast<const char*>(a.blocks[block + 1]) + i, _MM_HINT_T0);
    Codes::template key_sums<kRows>(a.key_bits, keys, dim, q, rows);

    const auto* key_scales = reinterpret_cast<const uint16_t*>(keys + kv_scales_offset(a.key_bits, dim));
    const auto* value_scales = reinterpret_cast<const uint16_t*>(values + kv_scales_offset(a.value_bits, dim));
    const auto hidden = static_cast<int>(block == 0 ? a.hidden : 0);
    float factor[kRows], keep[kRows];
    for (int r = 0; r < kRows; ++r) {
      alignas(64) float p[kTokens];
      const Floats scale = Floats::all(a.q_scale[first + r]) * key_unit, lowest = Floats::all(kNoScore);
      const Floats offset = Floats::all(static_cast<float>(Codes::kBias * a.q_sum[first + r]));
      Floats m = lowest;
      for (int t = 0; t < kTokens; t += kWidth) {
        // Whole numbers below 2^24: the difference is exact.
        const Floats s = (Floats::load_int32(rows.score[r] + t) - offset) * scale * Floats::load_half(key_scales + t);
        const Floats seen = lowest.keep_first(hidden - t, s);
        seen.store(p + t);
        m = max(m, seen);
      }
      const float before = a.maximum[first + r], block_largest = m.largest();
      const float largest = block_largest > before ? block_largest : before;
      Floats total = Floats::zero(), heaviest = Floats::zero();
      for (int t = 0; t < kTokens; t += kWidth) {
        const Floats e = Floats::zero().keep_first(hidden - t, exp(Floats::load(p + t) - Floats::all(largest)));
        const Floats w = e * Floats::load_half(value_scales + t);
        w.store(p + t);
        total = total + e;
        heaviest = max(heaviest, w);
      }
      const float weight = heaviest.largest();
      keep[r] = largest > before ? exp_difference(before, largest) : 1.0F;
      factor[r] = weight * value_unit;
      a.maximum[first + r] = largest;
      a.sum[first + r] = a.sum[first + r] * keep[r] + total.sum();
      rows.weight_sum[r] = Codes::split_weights(p, weight > 1e-30F ? kLargestWeight / weight : 0.0F, rows.weight[r]);
    }
    Codes::template value_sums<kRows>(a.value_bits, values, dim, rows);
    for (int r = 0; r < kRows; ++r) {
      float* out = a.values_sum[first + r];
      const int32_t offset = Codes::kBias * rows.weight_sum[r];
      const Floats scale = Floats::all(factor[r]), kept = Floats::all(keep[r]);
      for (int64_t d = 0; d < dim; d += kWidth)
        fma(Codes::load_difference(rows.values[r] + d, offset), scale, Floats::load(out + d) * kept).store(out + d);
    }
  }
}

template <class Codes>
void attend_blocks_any(const AttendBlocks& a) {
  int64_t r = 0;
  if constexpr (Codes::kMostRows == 8)
    for (; r + 8 <= a.rows; r += 8) attend_blocks_rows<Codes, 8>(a, r);
  for (; r + 4 <= a.rows; r += 4) attend_blocks_rows<Codes, 4>(a, r);
  for (; r + 3 <= a.rows; r += 3) attend_blocks_rows<Codes, 3>(a, r);
  for (; r + 2 <= a.rows; r += 2) attend_blocks_rows<Codes, 2>(a, r);
  for (; r < a.rows; ++r) attend_blocks_rows<Codes, 1>(a, r);
}

}  // namespace
}  // namespace turboquant
