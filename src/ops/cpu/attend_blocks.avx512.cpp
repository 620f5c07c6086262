// Attention over compressed blocks with AVX-512 (VBMI, VNNI).
#include "ops/cpu/attend_blocks.h"

namespace turboquant {
namespace {

inline uint64_t word(const uint8_t* p) {
  uint64_t w;
  __builtin_memcpy(&w, p, 8);
  return w;
}

inline __m512i four_bytes(const void* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

/// Decodes one side of a block. vpdpbusd wants one unsigned side: levels are level + 128.
template <int kBits>
struct Decoder {
  __m512i table = {};
  const uint8_t *plain, *top;

  Decoder(const uint8_t* side, int64_t dim) : plain(side), top(side + kv_top_offset(kBits, dim)) {
    if constexpr (kBits != 8) {
      constexpr int kLevels = 2 << kBits;
      alignas(64) int8_t entries[64];
      for (int i = 0; i < 64; ++i) entries[i] = kv_levels(kBits)[i % kLevels];
      table = _mm512_xor_si512(_mm512_load_si512(entries), _mm512_set1_epi8(static_cast<char>(0x80)));
    }
  }

  /// Vectors v .. v + 3 of the side, v a multiple of 4, each to use(i, levels); before, changed: their masks.
  template <typename Use>
  __attribute__((always_inline)) void four(int64_t v, const uint64_t* before, const uint64_t* changed,
                                           const Use& use) const {
    if constexpr (kBits == 8) {
      unroll<4>([&](auto i) TURBOQUANT_INLINE {
        use(i, _mm512_xor_si512(_mm512_loadu_si512(plain + 64 * (v + i)), _mm512_set1_epi8(static_cast<char>(0x80))));
      });
    } else {
      __m512i codes = _mm512_setzero_si512();
      if constexpr (kBits >= 3) codes = _mm512_loadu_si512(plain + 16 * v);
      unroll<4>([&](auto i) TURBOQUANT_INLINE {
        __m512i index = _mm512_setzero_si512();
        if constexpr (kBits >= 3) {
          const __m512i placed = i() == 0   ? _mm512_slli_epi16(codes, 2)
                                 : i() == 1 ? codes
                                            : _mm512_srli_epi16(codes, i() == 2 ? 2 : 4);
          index = _mm512_and_si512(placed, _mm512_set1_epi8(12));
        }
        if constexpr (kBits != 3)
          index = _mm512_mask_add_epi8(index, word(top + 8 * (v + i)), index, _mm512_set1_epi8(kBits == 4 ? 16 : 4));
        index = _mm512_mask_add_epi8(index, changed[i], index, _mm512_set1_epi8(2));
        index = _mm512_mask_add_epi8(index, before[i], index, _mm512_set1_epi8(1));
        use(i, kBits == 4 ? _mm512_permutexvar_epi8(index, table) : _mm512_shuffle_epi8(table, index));
      });
    }
  }
};

struct Codes512 {
  static constexpr int32_t kBias = 128;
  static constexpr int kMostRows = 8;

  static Floats load_difference(const int32_t* x, int32_t offset) {
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(x), _mm512_set1_epi32(offset)))};
  }

  static int32_t split_weights(const float* w, float inverse, uint8_t (*bytes)[kTokens]) {
    __m512i total = _mm512_setzero_si512();
    unroll<kTokens / 16>([&](auto i) TURBOQUANT_INLINE {
      const __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(w + 16 * i), _mm512_set1_ps(inverse)));
      total = _mm512_add_epi32(total, x);
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes[0] + 16 * i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(x, 7)));
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes[1] + 16 * i),
                      _mm512_cvtepi32_epi8(_mm512_and_si512(x, _mm512_set1_epi32(127))));
    });
    return _mm512_reduce_add_epi32(total);
  }

  // Tiles of 16 tokens, two at a time if the registers allow it: a dot product waits for the one before.
  template <int kBits, int kRows>
  static void key_sums(const uint8_t* side, int64_t dim, const int8_t* const* q, BlockRows<kRows>& rows) {
    constexpr int kTiles = kRows > 4 ? 1 : 2;
    const int64_t n = dim / 4;
    TrellisMasks masks[kTiles];
    const Decoder<kBits> decoder(side, dim);
    for (int tile = 0; tile < 4; tile += kTiles) {
      __m512i acc[kTiles][kRows];
      unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
        if constexpr (kBits != 8) masks[i].load_keys(side + kv_trellis_offset(kBits, dim) + 8 * (tile + i) * n, n);
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE { acc[i][r] = _mm512_setzero_si512(); });
      });
      for (int64_t v = 0; v < n; v += 4)
        unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
          decoder.four((tile + i) * n + v, masks[i].u + 1 + v, masks[i].changed + v,
                       [&](auto j, __m512i levels) TURBOQUANT_INLINE {
                         unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
                           acc[i][r] = _mm512_dpbusd_epi32(acc[i][r], levels, four_bytes(q[r] + 4 * (v + j)));
                         });
                       });
        });
      unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
        unroll<kRows>([&](auto r)
                          TURBOQUANT_INLINE { _mm512_store_si512(rows.score[r] + 16 * (tile + i), acc[i][r]); });
      });
    }
  }

  template <int kBits, int kRows>
  static void value_sums(const uint8_t* side, int64_t dim, BlockRows<kRows>& rows) {
    TrellisMasks masks;
    if constexpr (kBits != 8) masks.load_values(side + kv_trellis_offset(kBits, dim), dim / 16);
    const Decoder<kBits> decoder(side, dim);
    for (int64_t tile = 0; tile < dim / 16; ++tile) {
      __m512i upper[kRows], lower[kRows];
      unroll<kRows>([&](auto r) TURBOQUANT_INLINE { upper[r] = lower[r] = _mm512_setzero_si512(); });
      for (int64_t v = 0; v < 16; v += 4)
        decoder.four(16 * tile + v, masks.u + 16 + 16 * tile + v, masks.changed + 16 * tile + v,
                     [&](auto j, __m512i levels) TURBOQUANT_INLINE {
                       unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
                         upper[r] = _mm512_dpbusd_epi32(upper[r], levels, four_bytes(rows.weight[r][0] + 4 * (v + j)));
                         lower[r] = _mm512_dpbusd_epi32(lower[r], levels, four_bytes(rows.weight[r][1] + 4 * (v + j)));
                       });
                     });
      unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
        _mm512_store_si512(rows.values[r] + 16 * tile, _mm512_add_epi32(_mm512_slli_epi32(upper[r], 7), lower[r]));
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

void attend_blocks_avx512(const AttendBlocks& blocks) { attend_blocks_any<Codes512>(blocks); }

}  // namespace turboquant
