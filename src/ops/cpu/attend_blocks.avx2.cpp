// Attention over compressed blocks with AVX2.
#include "ops/cpu/attend_blocks.h"

namespace turboquant {
namespace {

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
  const uint8_t *plain = nullptr, *top = nullptr;
  int half = 0;

  Decoder() {
    if constexpr (kBits == 8) return;
    const auto* tables = reinterpret_cast<const __m128i*>(kv_levels(kBits));
    if constexpr (kBits == 2) {
      low = _mm256_broadcastq_epi64(_mm_loadl_epi64(tables));
    } else {
      low = _mm256_broadcastsi128_si256(_mm_load_si128(tables));
      if constexpr (kBits == 4) high = _mm256_broadcastsi128_si256(_mm_load_si128(tables + 1));
    }
  }
  void use(const uint8_t* side, int64_t dim, int which_half) {
    plain = side;
    top = side + kv_top_offset(kBits, dim);
    half = which_half;
  }

  /// Half of vector v + kAt of the side, v a multiple of 4.
  template <int kAt>
  __attribute__((always_inline)) __m256i vector(int64_t v, const TrellisMasks& masks) const {
    const auto load = [&](int64_t at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(plain + at)); };
    const auto mask = [&](uint64_t bits) { return static_cast<uint32_t>(bits >> (32 * half)); };
    if constexpr (kBits == 8) {
      return load(64 * (v + kAt) + 32 * half);
    } else {
      __m256i index = _mm256_or_si256(where(mask(masks.changed), 2), where(mask(masks.before), 1));
      if constexpr (kBits >= 3) {
        const __m256i codes = load(16 * v + 32 * half);
        const __m256i placed = kAt == 0   ? _mm256_slli_epi16(codes, 2)
                               : kAt == 1 ? codes
                                          : _mm256_srli_epi16(codes, kAt == 2 ? 2 : 4);
        index = _mm256_or_si256(index, _mm256_and_si256(placed, _mm256_set1_epi8(12)));
      }
      if constexpr (kBits == 2) index = _mm256_or_si256(index, where(mask(word(top + 8 * (v + kAt))), 4));
      __m256i levels = _mm256_shuffle_epi8(low, index);
      if constexpr (kBits == 4)
        levels =
            _mm256_blendv_epi8(levels, _mm256_shuffle_epi8(high, index), where(mask(word(top + 8 * (v + kAt))), 255));
      return levels;
    }
  }
};

struct Codes256 {
  static constexpr int32_t kBias = 0;
  static constexpr int kMostRows = 4;
  static constexpr int kHalves = 2;  // of 64 codes

  template <int kBits>
  static Decoder<kBits> decoder(const uint8_t* side, int64_t dim, int half) {
    Decoder<kBits> result;
    result.use(side, dim, half);
    return result;
  }
  static void store(__m256i levels, uint8_t* out) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), levels); }

  static Floats load_difference(const int32_t* x, int32_t /*offset*/) { return Floats::load_difference(x, 0); }

  static int32_t split_weights(const float* w, int tokens, float inverse, uint8_t* upper, uint8_t* lower) {
    const auto whole = [&](int t) TURBOQUANT_INLINE {
      return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(w + t), _mm256_set1_ps(inverse)));
    };
    for (int t = 0; t < tokens; t += 16) {
      // 16-bit lanes in the order of the tokens, then bytes of both parts.
      const __m256i x = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole(t), whole(t + 8)), 0xD8);
      const __m256i high = _mm256_srli_epi16(x, 7), low = _mm256_and_si256(x, _mm256_set1_epi16(127));
      const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi16(high, low), 0xD8);
      _mm_store_si128(reinterpret_cast<__m128i*>(upper + t), _mm256_castsi256_si128(both));
      _mm_store_si128(reinterpret_cast<__m128i*>(lower + t), _mm256_extracti128_si256(both, 1));
    }
    return 0;  // of no use without a bias
  }

  static __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

  template <int kBits, int kRows>
  static void sum_keys(const uint8_t* keys, int64_t dim, int64_t token, SpanRows<kRows>& rows, const KeyFetch& fetch) {
    const int64_t n = dim / 4;
    Decoder<kBits> decoder;
    for (int tile = 0; tile < 4; ++tile)
      for (int half = 0; half < 2; ++half) {
        decoder.use(keys, dim, half);
        KeyMasks masks(keys + kv_trellis_offset(kBits, dim) + 8 * tile * n, n);
        __m256i acc[kRows];
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE { acc[r] = _mm256_setzero_si256(); });
        for (int64_t v = 0; v < n; v += 4) {
          fetch.step((2 * tile + half) * (n / 4) + v / 4, 8 * (n / 4));
          unroll<4>([&](auto j) TURBOQUANT_INLINE {
            const __m256i levels = decoder.template vector<j()>(tile * n + v, masks.next());
            const __m256i size = _mm256_abs_epi8(levels);  // at most 127: sums of two products fit 16 bits
            unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
              const __m256i signs = _mm256_sign_epi8(four_bytes(rows.q[r] + 4 * (v + j)), levels);
              acc[r] = _mm256_add_epi32(acc[r], widen(_mm256_maddubs_epi16(size, signs)));
            });
          });
        }
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
          _mm256_store_si256(reinterpret_cast<__m256i*>(rows.score[r] + token + 16 * tile + 8 * half), acc[r]);
        });
      }
  }

  template <int kBits, int kRows>
  static void sum_values(const AttendBlocks& a, const SpanSides& sides, SpanRows<kRows>& rows) {
    const int64_t dim = a.head_dim;
    Decoder<kBits> decoder;
    for (int64_t tile = 0; tile < dim / 16; ++tile)
      for (int half = 0; half < 2; ++half) {
        __m256i upper[kRows], lower[kRows];
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE { upper[r] = lower[r] = _mm256_setzero_si256(); });
        for (int64_t block = 0; block < a.count; ++block) {
          const uint8_t* values = sides.values[block];
          if (block < a.next_count) fetch(a.next[block], kv_side_bytes(a.key_bits, dim), 2 * tile + half, dim / 8);
          decoder.use(values, dim, half);
          const ValueMasks masks(values + kv_trellis_offset(kBits, dim), dim / 16, tile);
          for (int64_t v = 0; v < 16; v += 4)
            unroll<4>([&](auto j) TURBOQUANT_INLINE {
              const __m256i levels = decoder.template vector<j()>(16 * tile + v, masks.at(v + j));
              const int64_t token = block * kTokens + 4 * (v + j);
              unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
                const __m256i w = four_bytes(rows.weight[0][r] + token), x = four_bytes(rows.weight[1][r] + token);
                upper[r] = _mm256_add_epi32(upper[r], widen(_mm256_maddubs_epi16(w, levels)));
                lower[r] = _mm256_add_epi32(lower[r], widen(_mm256_maddubs_epi16(x, levels)));
              });
            });
        }
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
          _mm256_store_si256(reinterpret_cast<__m256i*>(rows.values[r] + 16 * tile + 8 * half),
                             _mm256_add_epi32(_mm256_slli_epi32(upper[r], 7), lower[r]));
        });
      }
  }
};

}  // namespace

void attend_blocks_avx2(const AttendBlocks& blocks) { attend_blocks_any<Codes256>(blocks); }

}  // namespace turboquant
