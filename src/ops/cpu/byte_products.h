// Products of bytes with vectors of 256 bits: compressed tiles decoded and multiplied, as templates over Dot, what sums
// the products of four bytes:
//
//     Dot::add(sums, a, b)    sums + a * b, of 4 bytes in each 32-bit lane, a within 0..127 and b within +-127
//
// For files compiled for newer processors: all is in an unnamed namespace (core/simd.h says why).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/unroll.h"
#include "ops/cpu/fetch_ahead.h"
#include "ops/cpu/kernels.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

inline int32_t word32(const uint8_t* p) {
  int32_t w;
  __builtin_memcpy(&w, p, 4);
  return w;
}
inline int64_t word64(const uint8_t* p) {
  int64_t w;
  __builtin_memcpy(&w, p, 8);
  return w;
}

inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store32(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline __m256i all_bytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }

/// Four vectors of rows 2 i | 2 i + 1 of 8, four 32-bit lanes each, to four vectors of a lane each, of all 8 rows.
inline void transpose(__m256i v[4]) {
  const __m256i row0 = _mm256_permute2x128_si256(v[0], v[2], 0x20), row1 = _mm256_permute2x128_si256(v[0], v[2], 0x31);
  const __m256i row2 = _mm256_permute2x128_si256(v[1], v[3], 0x20), row3 = _mm256_permute2x128_si256(v[1], v[3], 0x31);
  const __m256i a = _mm256_unpacklo_epi32(row0, row1), b = _mm256_unpackhi_epi32(row0, row1);
  const __m256i c = _mm256_unpacklo_epi32(row2, row3), d = _mm256_unpackhi_epi32(row2, row3);
  v[0] = _mm256_unpacklo_epi64(a, c);
  v[1] = _mm256_unpackhi_epi64(a, c);
  v[2] = _mm256_unpacklo_epi64(b, d);
  v[3] = _mm256_unpackhi_epi64(b, d);
}

/// For both indices of a byte, of rows 2 i and 2 i + 1, the integers that a weight can be, side by side: 16 bytes a
/// row, by its key: at 2 bits u | top << 1 | c0 << 2, at 3 bits plain | u << 2 | c0 << 3, at 4 bits, to which the shift
/// is added, low plain bits | u << 2 | top << 3.
template <int kBits>
struct PairTables {
  alignas(64) int8_t of[256][32];
  alignas(64) int8_t shift[kBits == 4 ? 256 : 1][32];
  constexpr PairTables() : of(), shift() {
    for (int pair = 0; pair < 256; ++pair)
      for (int at = 0; at < 32; ++at) {
        const int index = at < 16 ? pair & 15 : pair >> 4, key = at % 16;
        const int code = kBits == 2 ? key & 3 : (key & 3) << 1 | (key >> 2 & 1) | (kBits == 4 ? key & 8 : 0);
        const int c0 = kBits == 2 ? key >> 2 & 1 : kBits == 3 ? key >> 3 : 0;
        of[pair][at] =
            static_cast<int8_t>(tcq16_table(kBits)[(index << kBits) + code] + c0 * tcq16_shift(kBits)[index]);
        if (kBits == 4) shift[pair][at] = tcq16_shift(kBits)[index];
      }
  }
};
template <int kBits>
constexpr PairTables<kBits> kPairTables;

/// Spreads bytes 4 i .. 4 i + 3 of 16 over the columns of a pair of rows, i = 0..3.
struct PairBytes {
  alignas(32) uint8_t of[4][32];
  constexpr PairBytes() : of() {
    for (int i = 0; i < 4; ++i)
      for (int at = 0; at < 32; ++at) of[i][at] = static_cast<uint8_t>(4 * i + at % 16 / 4);
  }
};
constexpr PairBytes kPairBytes;

/// The 4 words of a block's bit plane, turned so that bytes 4 i .. 4 i + 3 are byte i of each word: the bits of row 2 i
/// in the low nibbles, of row 2 i + 1 in the high ones.
struct TurnedPlane {
  __m256i half[2];  // of 4 pairs, twice
  explicit TurnedPlane(const uint8_t* words) {
    const __m256i two_words =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    const __m256i w = _mm256_shuffle_epi8(load32(words), two_words);
    const __m256i first = _mm256_permute4x64_epi64(w, 0x44), second = _mm256_permute4x64_epi64(w, 0xEE);
    half[0] = _mm256_unpacklo_epi16(first, second);
    half[1] = _mm256_unpackhi_epi16(first, second);
  }
  /// 0xff where the bit of a column is set: rows 2 i | 2 i + 1, 16 columns each.
  __m256i of_pair(int i) const {
    const __m256i bit =
        _mm256_setr_epi64x(0x0804020108040201, 0x0804020108040201, static_cast<int64_t>(0x8040201080402010),
                           static_cast<int64_t>(0x8040201080402010));
    const __m256i bytes = _mm256_shuffle_epi8(half[i / 4], load32(kPairBytes.of[i % 4]));
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
  }
};

/// The low plain bits of rows 2 i | 2 i + 1, 16 columns each, in the two lowest bits of a byte.
inline __m256i plain_of_pair(const uint8_t* blocks, int i) {
  const __m256i row_each =
      _mm256_setr_epi32(0x03020100, 0x03020100, 0x03020100, 0x03020100, 0x07060504, 0x07060504, 0x07060504, 0x07060504);
  const __m256i shifts = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi64x(word64(blocks + 8 * i)), row_each);
  return _mm256_and_si256(_mm256_srlv_epi32(bytes, shifts), all_bytes(3));
}

/// u of slot t - 1, of what bytes of a row of 16 columns hold: of the same byte 4 columns before, for the first 4 of
/// the neighbouring byte of the last 4.
inline __m256i slot_before(__m256i rows) {
  const __m256i from = _mm256_broadcastsi128_si256(_mm_setr_epi8(15, 12, 13, 14, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
  return _mm256_shuffle_epi8(rows, from);
}

inline __m256i either(__m256i a, __m256i b) { return _mm256_or_si256(a, b); }
inline __m256i bits_of(__m256i x, int mask) { return _mm256_and_si256(x, all_bytes(mask)); }

// Decoding, in the order of the files or repacked: each vector holds two rows, 2 i and 2 i + 1, with the 16 columns of
// the group in order, so that one byte shuffle on the two rows' tables decodes them. use(group, half, rows) takes the
// vectors of four pairs of rows, the first or the second half of the tile; half is a constant.
template <int kBits, typename Use>
inline __attribute__((always_inline)) void decode_tile(const uint8_t* blocks, int64_t groups, const Use& use) {
  const PairTables<kBits>& tables = kPairTables<kBits>;
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(kBits)) {
    const TurnedPlane u_plane(blocks + trellis_offset(kBits));
    const TurnedPlane top_plane(blocks + (kBits == 3 ? trellis_offset(3) : top_offset(kBits)));
    const uint8_t* indices = blocks + index_offset(kBits);
    unroll<2>([&](auto half) TURBOQUANT_INLINE {
      __m256i rows[4];
      unroll<4>([&](auto at) TURBOQUANT_INLINE {
        const int i = 4 * half + at;
        const __m256i table = load32(tables.of[indices[i]]), u = u_plane.of_pair(i), before = slot_before(u);
        if constexpr (kBits == 2) {
          const __m256i key = either(bits_of(u, 1), either(bits_of(top_plane.of_pair(i), 2), bits_of(before, 4)));
          rows[at] = _mm256_shuffle_epi8(table, key);
        } else if constexpr (kBits == 3) {
          const __m256i key = either(plain_of_pair(blocks, i), either(bits_of(u, 4), bits_of(before, 8)));
          rows[at] = _mm256_shuffle_epi8(table, key);
        } else {
          const __m256i key = either(plain_of_pair(blocks, i), either(bits_of(u, 4), bits_of(top_plane.of_pair(i), 8)));
          rows[at] = _mm256_add_epi8(_mm256_shuffle_epi8(table, key),
                                     _mm256_and_si256(before, load32(tables.shift[indices[i]])));
        }
      });
      use(g, half, rows);
    });
  }
}

// A repacked block has its weights' bits where the loop below wants them: two bits of pair of rows 4 h + i as bits 2 i
// and 2 i + 1 of vector h,
//
//     bits 3, 4: 2 vectors of the low plain bits
//     bits 2, 4: 2 vectors of u (bit 2 i) and the top plain bit
//     bits 3:    1 vector of u alone, of pair 4 h + i in bit 2 i + h
//     the indices as they were
//
// so that what the order of the files takes for each pair is done for four at once.
constexpr int64_t second_bits_offset(int bits) { return bits == 2 ? 0 : 64; }

template <int kBits>
inline void repack_tile(const uint8_t* blocks, int64_t groups, uint8_t* out) {
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(kBits), out += block_bytes(kBits)) {
    const TurnedPlane u_plane(blocks + trellis_offset(kBits));
    const TurnedPlane top_plane(blocks + (kBits == 3 ? trellis_offset(3) : top_offset(kBits)));
    __m256i plain[2] = {}, second[2] = {};
    unroll<8>([&](auto i) TURBOQUANT_INLINE {
      constexpr int kHalf = i / 4, kAt = 2 * (i % 4);
      const __m256i u = u_plane.of_pair(i);
      if constexpr (kBits == 3) {
        second[0] = either(second[0], bits_of(u, 1 << (kAt + kHalf)));
      } else {
        second[kHalf] = either(second[kHalf], either(bits_of(u, 1 << kAt), bits_of(top_plane.of_pair(i), 2 << kAt)));
      }
      if constexpr (kBits != 2) plain[kHalf] = either(plain[kHalf], _mm256_slli_epi16(plain_of_pair(blocks, i), kAt));
    });
    if constexpr (kBits != 2)
      for (int h = 0; h < 2; ++h) store32(out + 32 * h, plain[h]);
    for (int h = 0; h < (kBits == 3 ? 1 : 2); ++h) store32(out + second_bits_offset(kBits) + 32 * h, second[h]);
    __builtin_memcpy(out + index_offset(kBits), blocks + index_offset(kBits), 8);
  }
}

template <int kBits, typename Use>
inline __attribute__((always_inline)) void decode_repacked(const uint8_t* blocks, int64_t groups, const Use& use) {
  const PairTables<kBits>& tables = kPairTables<kBits>;
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(kBits)) {
    fetch_ahead<kBits>(blocks);
    const uint8_t* indices = blocks + index_offset(kBits);
    const uint8_t* second_bits = blocks + second_bits_offset(kBits);
    __m256i second[2];  // at 3 bits of each weight u and u of the slot before
    if constexpr (kBits == 3) {
      const __m256i u = load32(second_bits), before = slot_before(u);
      second[0] = either(bits_of(u, 0x55), _mm256_slli_epi16(bits_of(before, 0x55), 1));
      second[1] = either(bits_of(_mm256_srli_epi16(u, 1), 0x55), bits_of(before, 0xAA));
    } else {
      for (int h = 0; h < 2; ++h) second[h] = load32(second_bits + 32 * h);
    }
    unroll<2>([&](auto half) TURBOQUANT_INLINE {
      const __m256i both = second[half], before = slot_before(both);
      // The keys of the first pair in the low nibbles and of the third in the high ones, and of the other two.
      __m256i even, odd;
      if constexpr (kBits == 2) {
        even = either(bits_of(both, 0x33), bits_of(_mm256_slli_epi16(before, 2), 0x44));
        odd = either(bits_of(_mm256_srli_epi16(both, 2), 0x33), bits_of(before, 0x44));
      } else {
        const __m256i plain = load32(blocks + 32 * half);
        even = either(bits_of(plain, 0x33), bits_of(_mm256_slli_epi16(both, 2), 0xCC));
        odd = either(bits_of(_mm256_srli_epi16(plain, 2), 0x33), bits_of(both, 0xCC));
      }
      __m256i rows[4] = {even, odd, _mm256_srli_epi16(even, 4), _mm256_srli_epi16(odd, 4)};
      unroll<4>([&](auto at) TURBOQUANT_INLINE {
        const size_t pair = indices[4 * half + at];
        // At 2 bits the highest bit of every nibble is 0, which is what a shuffle wants.
        const __m256i key = kBits == 2 ? rows[at] : bits_of(rows[at], 15);
        rows[at] = _mm256_shuffle_epi8(load32(tables.of[pair]), key);
        if constexpr (kBits == 4)
          rows[at] =
              _mm256_add_epi8(rows[at], _mm256_sign_epi8(load32(tables.shift[pair]), bits_of(before, 1 << (2 * at))));
      });
      use(g, half, rows);
    });
  }
}

template <bool kRepacked, typename Use>
inline __attribute__((always_inline)) void decode(int bits, const uint8_t* blocks, int64_t groups, const Use& use) {
  const auto decode_bits = [&](auto constant) TURBOQUANT_INLINE {
    if constexpr (kRepacked)
      decode_repacked<constant()>(blocks, groups, use);
    else
      decode_tile<constant()>(blocks, groups, use);
  };
  if (bits == 3)
    decode_bits(std::integral_constant<int, 3>());
  else if (bits == 4)
    decode_bits(std::integral_constant<int, 4>());
  else
    decode_bits(std::integral_constant<int, 2>());
}

inline void repack(int bits, const uint8_t* blocks, int64_t groups, uint8_t* out) {
  if (bits == 3)
    repack_tile<3>(blocks, groups, out);
  else if (bits == 4)
    repack_tile<4>(blocks, groups, out);
  else
    repack_tile<2>(blocks, groups, out);
}

/// The same with a within +-127: the instructions want one side unsigned.
template <typename Dot>
inline __m256i add_signed(__m256i sums, __m256i a, __m256i a_abs, __m256i b) {
  return Dot::add(sums, a_abs, _mm256_sign_epi8(b, a));
}

/// The most multiply-adds that Dot does.
template <typename Dot>
int64_t peak_int8(int64_t repeats) {
  constexpr int kChains = 12;  // more than latency times instructions a cycle
  volatile int given = 3;      // not known to the compiler
  const __m256i a = all_bytes(given);
  __m256i b = all_bytes(given);
  __m256i acc[kChains] = {};
  for (int64_t r = 0; r < repeats; ++r)
    unroll<kChains>([&](auto i) TURBOQUANT_INLINE {
      acc[i] = Dot::add(acc[i], a, b);
      asm volatile("" : "+x"(b));  // or the product is computed once
    });
  for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_epi32(acc[0], acc[i]);
  given = _mm256_extract_epi32(acc[0], 0);
  return repeats * kChains * 32;
}

// The vectors of a tile of int8 are 8 rows of 4 columns already.
template <typename Dot>
void int8_tile_dot(const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  __m256i acc[2][2] = {};
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(8), x += kGroup) {
    fetch_ahead<8>(blocks);
    unroll<4>([&](auto j) TURBOQUANT_INLINE {
      const __m256i xs = _mm256_set1_epi32(word32(reinterpret_cast<const uint8_t*>(x) + 4 * j));
      const __m256i xs_abs = _mm256_abs_epi8(xs);
      unroll<2>([&](auto half) TURBOQUANT_INLINE {
        __m256i& sums = acc[half][j % 2];
        sums = add_signed<Dot>(sums, xs, xs_abs, load32(blocks + 64 * j + 32 * half));
      });
    });
  }
  for (int half = 0; half < 2; ++half) store32(out + 8 * half, _mm256_add_epi32(acc[half][0], acc[half][1]));
}

template <typename Dot, bool kRepacked>
void tile_dot(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  if (bits == 8) {
    int8_tile_dot<Dot>(blocks, groups, x, out);
    return;
  }
  __m256i acc[2][4] = {};
  decode<kRepacked>(bits, blocks, groups, [&](int64_t g, auto half, const __m256i rows[4]) TURBOQUANT_INLINE {
    const __m256i xs = _mm256_broadcastsi128_si256(load16(x + kGroup * g));
    const __m256i xs_abs = _mm256_abs_epi8(xs);
    for (int i = 0; i < 4; ++i) acc[half][i] = add_signed<Dot>(acc[half][i], xs, xs_abs, rows[i]);
  });
  // acc[half][i] holds 4 partial sums of row 8 half + 2 i and of the next.
  for (int half = 0; half < 2; ++half) {
    transpose(acc[half]);
    const __m256i sums =
        _mm256_add_epi32(_mm256_add_epi32(acc[half][0], acc[half][1]), _mm256_add_epi32(acc[half][2], acc[half][3]));
    store32(out + 8 * half, sums);
  }
}

template <bool kRepacked>
void tile_panel(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) {
  if (bits == 8) {
    for (int64_t i = 0; i < groups * block_bytes(8); i += 32) store32(panel + i, load32(blocks + i));
    return;
  }
  decode<kRepacked>(bits, blocks, groups, [&](int64_t g, auto half, const __m256i rows[4]) TURBOQUANT_INLINE {
    __m256i columns[4] = {rows[0], rows[1], rows[2], rows[3]};
    transpose(columns);
    for (int j = 0; j < 4; ++j) store32(panel + 64 * (4 * g + j) + 32 * half, columns[j]);
  });
}

template <typename Dot, int kTokens>
void panel_dot_tokens(const uint8_t* panel, int64_t groups, const int8_t* x, int32_t* out) {
  __m256i acc0[kTokens], acc1[kTokens];
  const auto at = [&](int t, int half) TURBOQUANT_INLINE {
    return reinterpret_cast<__m256i*>(out + t * kTilePair * kTileRows + 8 * half);
  };
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    acc0[t] = _mm256_loadu_si256(at(t, 0));
    acc1[t] = _mm256_loadu_si256(at(t, 1));
  });
  for (int64_t v = 0; v < 4 * groups; ++v, x += 4 * kTokenPanel) {
    const __m256i w0 = load32(panel + 64 * v), w1 = load32(panel + 64 * v + 32);
    const __m256i a0 = _mm256_abs_epi8(w0), a1 = _mm256_abs_epi8(w1);
    unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
      int32_t four;
      __builtin_memcpy(&four, x + 4 * t, 4);
      const __m256i xs = _mm256_set1_epi32(four);
      acc0[t] = add_signed<Dot>(acc0[t], w0, a0, xs);
      acc1[t] = add_signed<Dot>(acc1[t], w1, a1, xs);
    });
  }
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    _mm256_storeu_si256(at(t, 0), acc0[t]);
    _mm256_storeu_si256(at(t, 1), acc1[t]);
  });
}

template <typename Dot>
void panel_dot(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
               int32_t* out) {
  const uint8_t* panels[kTilePair] = {panel0, panel1};
  for (int i = 0; i < kTilePair; ++i)
    for (int t = 0; t < tokens;) {
      const int8_t* xs = x + 4 * t;
      int32_t* sums = out + (t * kTilePair + i) * kTileRows;
      if (tokens - t >= 4) {
        panel_dot_tokens<Dot, 4>(panels[i], groups, xs, sums);
        t += 4;
      } else if (tokens - t >= 2) {
        panel_dot_tokens<Dot, 2>(panels[i], groups, xs, sums);
        t += 2;
      } else {
        panel_dot_tokens<Dot, 1>(panels[i], groups, xs, sums);
        t += 1;
      }
    }
}

}  // namespace
}  // namespace turboquant
