// Attention over compressed blocks with AVX-512 (VBMI, VNNI).
#include "ops/cpu/attend_blocks.h"

namespace turboquant {
namespace {

inline __m512i four_bytes(const void* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

/// Decodes one side of a block. vpdpbusd wants one unsigned side: levels are level + 128.
template <int kBits>
struct Decoder {
  __m512i table = {};
  const uint8_t *plain = nullptr, *top = nullptr;

  Decoder() {
    if constexpr (kBits == 8) return;
    const int8_t* levels = kv_levels(kBits);
    if constexpr (kBits == 4)
      table = _mm512_broadcast_i64x4(_mm256_load_si256(reinterpret_cast<const __m256i*>(levels)));
    else if constexpr (kBits == 3)
      table = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(levels)));
    else if constexpr (kBits == 2)
      table = _mm512_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(levels)));
    table = _mm512_xor_si512(table, _mm512_set1_epi8(static_cast<char>(0x80)));
  }
  void use(const uint8_t* side, int64_t dim) {
    plain = side;
    top = side + kv_top_offset(kBits, dim);
  }

  /// Vector v + kAt of the side, v a multiple of 4.
  template <int kAt>
  __attribute__((always_inline)) __m512i vector(int64_t v, const TrellisMasks& masks) const {
    if constexpr (kBits == 8) {
      return _mm512_xor_si512(_mm512_loadu_si512(plain + 64 * (v + kAt)), _mm512_set1_epi8(static_cast<char>(0x80)));
    } else {
      __m512i index = _mm512_setzero_si512();
      if constexpr (kBits >= 3) {
        const __m512i codes = _mm512_loadu_si512(plain + 16 * v);
        const __m512i placed = kAt == 0   ? _mm512_slli_epi16(codes, 2)
                               : kAt == 1 ? codes
                                          : _mm512_srli_epi16(codes, kAt == 2 ? 2 : 4);
        index = _mm512_and_si512(placed, _mm512_set1_epi8(12));
      }
      if constexpr (kBits != 3)
        index = _mm512_mask_add_epi8(index, word(top + 8 * (v + kAt)), index, _mm512_set1_epi8(kBits == 4 ? 16 : 4));
      index = _mm512_mask_add_epi8(index, masks.changed, index, _mm512_set1_epi8(2));
      index = _mm512_mask_add_epi8(index, masks.before, index, _mm512_set1_epi8(1));
      return kBits == 4 ? _mm512_permutexvar_epi8(index, table) : _mm512_shuffle_epi8(table, index);
    }
  }
};

struct Codes512 {
  static constexpr int32_t kBias = 128;
  static constexpr int kMostRows = 8;
  static constexpr int kHalves = 1;  // of 64 codes

  template <int kBits>
  static Decoder<kBits> decoder(const uint8_t* side, int64_t dim, int /*half*/) {
    Decoder<kBits> result;
    result.use(side, dim);
    return result;
  }
  static void store(__m512i levels, uint8_t* out) {
    _mm512_storeu_si512(out, _mm512_xor_si512(levels, _mm512_set1_epi8(static_cast<char>(0x80))));
  }

  static Floats load_difference(const int32_t* x, int32_t offset) {
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(x), _mm512_set1_epi32(offset)))};
  }

  static int32_t split_weights(const float* w, int tokens, float inverse, uint8_t* upper, uint8_t* lower) {
    __m512i total = _mm512_setzero_si512();
    for (int t = 0; t < tokens; t += 16) {
      const __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(w + t), _mm512_set1_ps(inverse)));
      total = _mm512_add_epi32(total, x);
      _mm_store_si128(reinterpret_cast<__m128i*>(upper + t), _mm512_cvtepi32_epi8(_mm512_srli_epi32(x, 7)));
      _mm_store_si128(reinterpret_cast<__m128i*>(lower + t),
                      _mm512_cvtepi32_epi8(_mm512_and_si512(x, _mm512_set1_epi32(127))));
    }
    return _mm512_reduce_add_epi32(total);
  }

  template <int kRows>
  static constexpr int kKeyTiles = kRows > 4 ? 2 : 4;

  // As many tiles side by side as the registers allow: they share the broadcast bytes, which else bind, and a dot
  // product waits for the one before.
  template <int kBits, int kRows>
  static void sum_keys(const uint8_t* keys, int64_t dim, int64_t token, SpanRows<kRows>& rows, const KeyFetch& fetch) {
    constexpr int kTiles = kKeyTiles<kRows>;
    const int64_t n = dim / 4;
    const uint8_t* words = keys + kv_trellis_offset(kBits, dim);
    Decoder<kBits> decoder;
    decoder.use(keys, dim);
    for (int tile = 0; tile < 4; tile += kTiles) {
      __m512i acc[kTiles][kRows];
      KeyMasks masks[kTiles];
      unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
        masks[i] = {words + 8 * (tile + i) * n, n};
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE { acc[i][r] = _mm512_setzero_si512(); });
      });
      for (int64_t v = 0; v < n; v += 4) {
        fetch.step(tile / kTiles * (n / 4) + v / 4, 4 / kTiles * (n / 4));
        unroll<4>([&](auto j) TURBOQUANT_INLINE {
          __m512i levels[kTiles];
          unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
            levels[i] = decoder.template vector<j()>((tile + i) * n + v, masks[i].next());
          });
          unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
            const __m512i q = four_bytes(rows.q[r] + 4 * (v + j));
            unroll<kTiles>([&](auto i) TURBOQUANT_INLINE { acc[i][r] = _mm512_dpbusd_epi32(acc[i][r], levels[i], q); });
          });
        });
      }
      unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
        unroll<kRows>(
            [&](auto r) TURBOQUANT_INLINE { _mm512_store_si512(rows.score[r] + token + 16 * (tile + i), acc[i][r]); });
      });
    }
  }

  template <int kBits, int kRows, int kTiles>
  static void value_tiles(const AttendBlocks& a, const SpanSides& sides, int64_t tile, SpanRows<kRows>& rows) {
    const int64_t dim = a.head_dim;
    Decoder<kBits> decoder;
    __m512i upper[kTiles][kRows], lower[kTiles][kRows];
    unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
      unroll<kRows>([&](auto r) TURBOQUANT_INLINE { upper[i][r] = lower[i][r] = _mm512_setzero_si512(); });
    });
    for (int64_t block = 0; block < a.count; ++block) {
      const uint8_t* values = sides.values[block];
      if (block < a.next_count) fetch(a.next[block], kv_side_bytes(a.key_bits, dim), tile / kTiles, dim / 16 / kTiles);
      const uint8_t* words = values + kv_trellis_offset(kBits, dim);
      decoder.use(values, dim);
      const ValueMasks first(words, dim / 16, tile), second(words, dim / 16, tile + kTiles - 1);
      const uint8_t *upper_bytes = rows.weight[0][0] + block * kTokens,
                    *lower_bytes = rows.weight[1][0] + block * kTokens;
      for (int64_t v = 0; v < 16; v += 4)
        unroll<4>([&](auto j) TURBOQUANT_INLINE {
          __m512i levels[kTiles];
          unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
            levels[i] = decoder.template vector<j()>(16 * (tile + i) + v, (i() == 0 ? first : second).at(v + j));
          });
          unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
            const __m512i w = four_bytes(upper_bytes + r * kSpanTokens + 4 * (v + j));
            const __m512i x = four_bytes(lower_bytes + r * kSpanTokens + 4 * (v + j));
            unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
              upper[i][r] = _mm512_dpbusd_epi32(upper[i][r], levels[i], w);
              lower[i][r] = _mm512_dpbusd_epi32(lower[i][r], levels[i], x);
            });
          });
        });
    }
    unroll<kTiles>([&](auto i) TURBOQUANT_INLINE {
      unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
        _mm512_store_si512(rows.values[r] + 16 * (tile + i),
                           _mm512_add_epi32(_mm512_slli_epi32(upper[i][r], 7), lower[i][r]));
      });
    });
  }

  template <int kBits, int kRows>
  static void sum_values(const AttendBlocks& a, const SpanSides& sides, SpanRows<kRows>& rows) {
    const int64_t tiles = a.head_dim / 16;
    int64_t tile = 0;
    if constexpr (kRows <= 4)
      for (; tile + 2 <= tiles; tile += 2) value_tiles<kBits, kRows, 2>(a, sides, tile, rows);
    for (; tile < tiles; ++tile) value_tiles<kBits, kRows, 1>(a, sides, tile, rows);
  }
};

}  // namespace

void attend_blocks_avx512(const AttendBlocks& blocks) { attend_blocks_any<Codes512>(blocks); }

}  // namespace turboquant
