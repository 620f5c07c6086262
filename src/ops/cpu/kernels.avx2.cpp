// AVX2 kernels.
#include "ops/cpu/kernels.h"

#include "core/unroll.h"
#include "ops/cpu/delta_chunk.h"
#include "ops/cpu/delta_kernels.h"
#include "ops/cpu/float_kernels.h"
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
/// row, at 2 and 3 bits by plain | u << 2 | c0 << 3, at 4 bits, to which the shift is added, by low plain bits | u << 2
/// | top << 3.
template <int kBits>
struct PairTables {
  alignas(64) int8_t of[256][32];
  alignas(64) int8_t shift[kBits == 4 ? 256 : 1][32];
  constexpr PairTables() : of(), shift() {
    for (int pair = 0; pair < 256; ++pair)
      for (int at = 0; at < 32; ++at) {
        const int index = at < 16 ? pair & 15 : pair >> 4, i = at % 16, high = i >> 3;
        const int plain = kBits == 2 ? i & 1 : kBits == 3 ? i & 3 : (i & 3) | high << 2;
        const int k = plain << 1 | (i >> 2 & 1), c0 = kBits == 4 ? 0 : high;
        of[pair][at] = static_cast<int8_t>(tcq16_table(kBits)[(index << kBits) + k] + c0 * tcq16_shift(kBits)[index]);
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

// The one decode loop. Each vector holds two rows, 2 i and 2 i + 1, with the 16 columns of the group in order, so that
// one byte shuffle on the two rows' tables decodes them. use(group, half, rows) takes the vectors of four pairs of
// rows, the first or the second half of the tile; half is a constant.
template <int kBits, typename Use>
inline __attribute__((always_inline)) void decode_tile(const uint8_t* blocks, int64_t groups, const Use& use) {
  static_assert(kBits == 2 || kBits == 3 || kBits == 4);
  const PairTables<kBits>& tables = kPairTables<kBits>;
  // u of slot t - 1: of the same byte 4 columns before, for the first 4 of the neighbouring byte of the last 4.
  const __m256i slot_before =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(15, 12, 13, 14, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
  const __m256i u_bit = all_bytes(4), high_bit = all_bytes(8);
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(kBits)) {
    const TurnedPlane u_plane(blocks + trellis_offset(kBits));
    const uint8_t* indices = blocks + index_offset(kBits);
    const auto decode_half = [&](auto half, const auto& decode_pair) TURBOQUANT_INLINE {
      __m256i rows[4];
      unroll<4>([&](auto i) TURBOQUANT_INLINE { rows[i] = decode_pair(4 * half + i); });
      use(g, half, rows);
    };
    const auto u_and_before = [&](int i, __m256i& u, __m256i& before) TURBOQUANT_INLINE {
      u = u_plane.of_pair(i);
      before = _mm256_shuffle_epi8(u, slot_before);
      u = _mm256_and_si256(u, u_bit);
    };
    const auto table = [&](int i) TURBOQUANT_INLINE { return load32(tables.of[indices[i]]); };
    if constexpr (kBits == 3) {
      unroll<2>([&](auto half) TURBOQUANT_INLINE {
        decode_half(half, [&](int i) TURBOQUANT_INLINE {
          __m256i u, before;
          u_and_before(i, u, before);
          const __m256i k =
              _mm256_or_si256(plain_of_pair(blocks, i), _mm256_or_si256(u, _mm256_and_si256(before, high_bit)));
          return _mm256_shuffle_epi8(table(i), k);
        });
      });
    } else {
      const TurnedPlane top_plane(blocks + top_offset(kBits));
      unroll<2>([&](auto half) TURBOQUANT_INLINE {
        decode_half(half, [&](int i) TURBOQUANT_INLINE {
          __m256i u, before;
          u_and_before(i, u, before);
          const __m256i top = top_plane.of_pair(i);
          if constexpr (kBits == 2) {
            const __m256i k = _mm256_or_si256(_mm256_and_si256(top, all_bytes(1)),
                                              _mm256_or_si256(u, _mm256_and_si256(before, high_bit)));
            return _mm256_shuffle_epi8(table(i), k);
          } else {
            const __m256i k =
                _mm256_or_si256(plain_of_pair(blocks, i), _mm256_or_si256(u, _mm256_and_si256(top, high_bit)));
            return _mm256_add_epi8(_mm256_shuffle_epi8(table(i), k),
                                   _mm256_and_si256(before, load32(tables.shift[indices[i]])));
          }
        });
      });
    }
  }
}

template <typename Use>
inline __attribute__((always_inline)) void decode(int bits, const uint8_t* blocks, int64_t groups, const Use& use) {
  if (bits == 3)
    decode_tile<3>(blocks, groups, use);
  else if (bits == 4)
    decode_tile<4>(blocks, groups, use);
  else
    decode_tile<2>(blocks, groups, use);
}

/// Sums of 4 products of int8, a and b within +-127, in each 32-bit lane. vpmaddubsw wants one side unsigned, and
/// cannot overflow 16 bits then.
inline __m256i dot4(__m256i a, __m256i a_abs, __m256i b) {
  const __m256i pairs = _mm256_maddubs_epi16(a_abs, _mm256_sign_epi8(b, a));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

int64_t peak_int8(int64_t repeats) {
  constexpr int kChains = 8;
  volatile int given = 3;  // not known to the compiler
  const __m256i a = _mm256_set1_epi8(static_cast<char>(given));
  __m256i b = _mm256_set1_epi8(static_cast<char>(given));
  __m256i acc[kChains] = {};
  for (int64_t r = 0; r < repeats; ++r)
    unroll<kChains>([&](auto i) TURBOQUANT_INLINE {
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
      asm volatile("" : "+x"(b));  // or the product is computed once
    });
  for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_epi32(acc[0], acc[i]);
  given = _mm256_extract_epi32(acc[0], 0);
  return repeats * kChains * 32;
}

// The vectors of a tile of int8 are 8 rows of 4 columns already.
void int8_tile_dot(const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  __m256i acc[2][2] = {};
  for (int64_t v = 0; v < 4 * groups; v += 2, blocks += 128)
    unroll<2>([&](auto j) TURBOQUANT_INLINE {
      const __m256i xs = _mm256_set1_epi32(word32(reinterpret_cast<const uint8_t*>(x) + 4 * (v + j)));
      const __m256i xs_abs = _mm256_abs_epi8(xs);
      unroll<2>([&](auto half) TURBOQUANT_INLINE {
        acc[half][j] = _mm256_add_epi32(acc[half][j], dot4(xs, xs_abs, load32(blocks + 64 * j + 32 * half)));
      });
    });
  for (int half = 0; half < 2; ++half) store32(out + 8 * half, _mm256_add_epi32(acc[half][0], acc[half][1]));
}

void tile_dot(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  if (bits == 8) {
    int8_tile_dot(blocks, groups, x, out);
    return;
  }
  __m256i acc[2][4] = {};
  decode(bits, blocks, groups, [&](int64_t g, auto half, const __m256i rows[4]) TURBOQUANT_INLINE {
    const __m256i xs = _mm256_broadcastsi128_si256(load16(x + kGroup * g));
    const __m256i xs_abs = _mm256_abs_epi8(xs);
    for (int i = 0; i < 4; ++i) acc[half][i] = _mm256_add_epi32(acc[half][i], dot4(xs, xs_abs, rows[i]));
  });
  // acc[half][i] holds 4 partial sums of row 8 half + 2 i and of the next.
  for (int half = 0; half < 2; ++half) {
    transpose(acc[half]);
    const __m256i sums =
        _mm256_add_epi32(_mm256_add_epi32(acc[half][0], acc[half][1]), _mm256_add_epi32(acc[half][2], acc[half][3]));
    store32(out + 8 * half, sums);
  }
}

void tile_panel(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) {
  if (bits == 8) {
    for (int64_t i = 0; i < groups * block_bytes(8); i += 32) store32(panel + i, load32(blocks + i));
    return;
  }
  decode(bits, blocks, groups, [&](int64_t g, auto half, const __m256i rows[4]) TURBOQUANT_INLINE {
    __m256i columns[4] = {rows[0], rows[1], rows[2], rows[3]};
    transpose(columns);
    for (int j = 0; j < 4; ++j) store32(panel + 64 * (4 * g + j) + 32 * half, columns[j]);
  });
}

template <int kTokens>
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
      acc0[t] = _mm256_add_epi32(acc0[t], dot4(w0, a0, xs));
      acc1[t] = _mm256_add_epi32(acc1[t], dot4(w1, a1, xs));
    });
  }
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    _mm256_storeu_si256(at(t, 0), acc0[t]);
    _mm256_storeu_si256(at(t, 1), acc1[t]);
  });
}

void panel_dot(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
               int32_t* out) {
  const uint8_t* panels[kTilePair] = {panel0, panel1};
  for (int i = 0; i < kTilePair; ++i)
    for (int t = 0; t < tokens;) {
      const int8_t* xs = x + 4 * t;
      int32_t* sums = out + (t * kTilePair + i) * kTileRows;
      if (tokens - t >= 4) {
        panel_dot_tokens<4>(panels[i], groups, xs, sums);
        t += 4;
      } else {
        panel_dot_tokens<1>(panels[i], groups, xs, sums);
        t += 1;
      }
    }
}

}  // namespace

constinit const Kernels kAvx2Kernels = {
    .level = CpuLevel::avx2,
    .peak_int8 = peak_int8,
    .peak_f32 = peak_f32,
    .stream_sum = stream_sum,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .clamped_swiglu = clamped_swiglu,
    .sigmoid_gate = sigmoid_gate,
    .add = add,
    .rope = rope,
    .softmax = softmax,
    .quantize = quantize,
    .dense_f32 = dense<LoadF32>,
    .dense_f16 = dense<LoadF16>,
    .dense_bf16 = dense<LoadBF16>,
    .tile_dot = tile_dot,
    .tile_dots = nullptr,
    .shared_tokens = 1,
    .tile_panel = tile_panel,
    .panel_dot = panel_dot,
    .bias = 0,
    .scale_tile = scale_tile,
    .attend_page_f16 = attend_page<LoadF16>,
    .attend_page_f32 = attend_page<LoadF32>,
    .attend_blocks = attend_blocks_avx2,
    .attend_merge = attend_merge,
    .conv1d = conv1d,
    .gated_delta = gated_delta,
};

}  // namespace turboquant
