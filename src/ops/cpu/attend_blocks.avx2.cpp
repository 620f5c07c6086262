// Attention over compressed blocks with AVX2.
#include "ops/cpu/attend_blocks.h"

namespace turboquant {
namespace {

inline uint64_t word(const uint8_t* p) {
  uint64_t w;
  __builtin_memcpy(&w, p, 8);
  return w;
}

inline __m256i four_bytes(const void* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

/// `value` in byte b of the result where bit b of the 32-bit mask is set, else 0.
inline __m256i where(uint32_t mask, int value) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(mask)), byte);
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit),
                          _mm256_set1_epi8(static_cast<char>(value)));
}

/// Decodes one half of the vectors of a side: 32 codes each.
template <int kBits>
struct Decoder {
  __m256i low = {}, high = {};  // the table, in both halves
  const uint8_t *plain, *top;
  int half = 0;

  Decoder(const uint8_t* side, int64_t dim) : plain(side), top(side + kv_top_offset(kBits, dim)) {
    if constexpr (kBits != 8) {
      alignas(32) int8_t entries[32];
      for (int i = 0; i < 32; ++i) entries[i] = kv_levels(kBits)[i % (2 << kBits)];
      const auto* tables = reinterpret_cast<const __m128i*>(entries);
      low = _mm256_broadcastsi128_si256(_mm_load_si128(tables));
      high = _mm256_broadcastsi128_si256(_mm_load_si128(tables + 1));
    }
  }

  uint32_t mask(uint64_t bits) const { return static_cast<uint32_t>(bits >> (32 * half)); }

  template <typename Use>
  __attribute__((always_inline)) void four(int64_t v, const uint64_t* before, const uint64_t* changed,
                                           const Use& use) const {
    const auto load = [](const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
    if constexpr (kBits == 8) {
      unroll<4>([&](auto i) TURBOQUANT_INLINE { use(i, load(plain + 64 * (v + i) + 32 * half)); });
    } else {
      __m256i codes = _mm256_setzero_si256();
      if constexpr (kBits >= 3) codes = load(plain + 16 * v + 32 * half);
      unroll<4>([&](auto i) TURBOQUANT_INLINE {
        __m256i index = _mm256_or_si256(where(mask(changed[i]), 2), where(mask(before[i]), 1));
        if constexpr (kBits >= 3) {
          const __m256i placed = i() == 0   ? _mm256_slli_epi16(codes, 2)
                                 : i() == 1 ? codes
                                            : _mm256_srli_epi16(codes, i() == 2 ? 2 : 4);
          index = _mm256_or_si256(index, _mm256_and_si256(placed, _mm256_set1_epi8(12)));
        }
        if constexpr (kBits == 2) index = _mm256_or_si256(index, where(mask(word(top + 8 * (v + i))), 4));
        __m256i levels = _mm256_shuffle_epi8(low, index);
        if constexpr (kBits == 4)
          levels =
              _mm256_blendv_epi8(levels, _mm256_shuffle_epi8(high, index), where(mask(word(top + 8 * (v + i))), 255));
        use(i, levels);
      });
    }
  }
};

struct Codes256 {
  static constexpr int32_t kBias = 0;
  static constexpr int kMostRows = 4;

  static Floats load_difference(const int32_t* x, int32_t /*offset*/) { return Floats::load_int32(x); }

  static int32_t split_weights(const float* w, float inverse, uint8_t (*bytes)[kTokens]) {
    unroll<kTokens / 16>([&](auto i) TURBOQUANT_INLINE {
      const auto whole = [&](int at) TURBOQUANT_INLINE {
        return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(w + at), _mm256_set1_ps(inverse)));
      };
      // 16-bit lanes in the order of the tokens, then bytes of both parts.
      const __m256i x = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole(16 * i), whole(16 * i + 8)), 0xD8);
      const __m256i upper = _mm256_srli_epi16(x, 7), lower = _mm256_and_si256(x, _mm256_set1_epi16(127));
      const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi16(upper, lower), 0xD8);
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes[0] + 16 * i), _mm256_castsi256_si128(both));
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes[1] + 16 * i), _mm256_extracti128_si256(both, 1));
    });
    return 0;
  }

  static __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

  template <int kBits, int kRows>
  static void key_sums(const uint8_t* side, int64_t dim, const int8_t* const* q, BlockRows<kRows>& rows) {
    const int64_t n = dim / 4;
    TrellisMasks masks;
    Decoder<kBits> decoder(side, dim);
    for (int tile = 0; tile < 4; ++tile) {
      if constexpr (kBits != 8) masks.load_keys(side + kv_trellis_offset(kBits, dim) + 8 * tile * n, n);
      for (decoder.half = 0; decoder.half < 2; ++decoder.half) {
        __m256i acc[kRows];
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE { acc[r] = _mm256_setzero_si256(); });
        for (int64_t v = 0; v < n; v += 4)
          decoder.four(tile * n + v, masks.u + 1 + v, masks.changed + v, [&](auto j, __m256i levels) TURBOQUANT_INLINE {
            const __m256i size = _mm256_abs_epi8(levels);  // at most 127: sums of two products fit 16 bits
            unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
              const __m256i signs = _mm256_sign_epi8(four_bytes(q[r] + 4 * (v + j)), levels);
              acc[r] = _mm256_add_epi32(acc[r], widen(_mm256_maddubs_epi16(size, signs)));
            });
          });
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
          _mm256_store_si256(reinterpret_cast<__m256i*>(rows.score[r] + 16 * tile + 8 * decoder.half), acc[r]);
        });
      }
    }
  }

  template <int kBits, int kRows>
  static void value_sums(const uint8_t* side, int64_t dim, BlockRows<kRows>& rows) {
    TrellisMasks masks;
    if constexpr (kBits != 8) masks.load_values(side + kv_trellis_offset(kBits, dim), dim / 16);
    Decoder<kBits> decoder(side, dim);
    for (int64_t tile = 0; tile < dim / 16; ++tile)
      for (decoder.half = 0; decoder.half < 2; ++decoder.half) {
        __m256i upper[kRows], lower[kRows];
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE { upper[r] = lower[r] = _mm256_setzero_si256(); });
        for (int64_t v = 0; v < 16; v += 4)
          decoder.four(
              16 * tile + v, masks.u + 16 + 16 * tile + v, masks.changed + 16 * tile + v,
              [&](auto j, __m256i levels) TURBOQUANT_INLINE {
                unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
                  upper[r] = _mm256_add_epi32(
                      upper[r], widen(_mm256_maddubs_epi16(four_bytes(rows.weight[r][0] + 4 * (v + j)), levels)));
                  lower[r] = _mm256_add_epi32(
                      lower[r], widen(_mm256_maddubs_epi16(four_bytes(rows.weight[r][1] + 4 * (v + j)), levels)));
                });
              });
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
          _mm256_store_si256(reinterpret_cast<__m256i*>(rows.values[r] + 16 * tile + 8 * decoder.half),
                             _mm256_add_epi32(_mm256_slli_epi32(upper[r], 7), lower[r]));
        });
      }
  }

  template <int kRows>
  static void key_sums(int bits, const uint8_t* side, int64_t dim, const int8_t* const* q, BlockRows<kRows>& rows) {
    if (bits == 4) return key_sums<4, kRows>(side, dim, q, rows);
    if (bits == 3) return key_sums<3, kRows>(side, dim, q, rows);
    if (bits == 2) return key_sums<2, kRows>(side, dim, q, rows);
    key_sums<8, kRows>(side, dim, q, rows);
  }

  template <int kRows>
  static void value_sums(int bits, const uint8_t* side, int64_t dim, BlockRows<kRows>& rows) {
    if (bits == 4) return value_sums<4, kRows>(side, dim, rows);
    if (bits == 3) return value_sums<3, kRows>(side, dim, rows);
    if (bits == 2) return value_sums<2, kRows>(side, dim, rows);
    value_sums<8, kRows>(side, dim, rows);
  }
};

}  // namespace

void attend_blocks_avx2(const AttendBlocks& blocks) { attend_blocks_any<Codes256>(blocks); }

}  // namespace turboquant
