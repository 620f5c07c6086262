// AVX2 kernels.
#include "ops/cpu/kernels.h"

#include "core/unroll.h"
#include "ops/cpu/delta_chunk.h"
#include "ops/cpu/delta_kernels.h"
#include "ops/cpu/float_kernels.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

inline uint64_t word(const uint8_t* p) {
  uint64_t w;
  __builtin_memcpy(&w, p, 8);
  return w;
}

inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

/// Byte b of the result is 0xff where bit b of the mask, 32 bits in every lane, is set.
inline __m256i spread_mask(__m256i mask) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(mask, byte), bit), bit);
}

/// The same of 32 bits in memory.
inline __m256i spread_mask(const uint8_t* p) {
  int32_t mask;
  __builtin_memcpy(&mask, p, 4);
  return spread_mask(_mm256_set1_epi32(mask));
}

/// Exchanges the 32-bit lanes (j, a) of four vectors within each 128-bit half: from one vector a j with a lane a row to
/// one vector a row with a lane a j, and back.
inline void transpose(__m256i v[4]) {
  const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
  const __m256i c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm256_unpacklo_epi64(a, c);
  v[1] = _mm256_unpackhi_epi64(a, c);
  v[2] = _mm256_unpacklo_epi64(b, d);
  v[3] = _mm256_unpackhi_epi64(b, d);
}

/// The integers that a weight can be, a table of 16 bytes an index: at 2 and 3 bits by (c0 << 3) | k, at 4 bits by k,
/// to which the shift is added.
template <int kBits>
struct RowTables {
  alignas(64) int8_t of[16][16];
  alignas(64) int8_t shift[16][16];
  constexpr RowTables() : of(), shift() {
    for (int index = 0; index < 16; ++index)
      for (int i = 0; i < 16; ++i) {
        const int c0 = kBits == 4 ? 0 : i >> 3, k = kBits == 2 ? i & 3 : kBits == 3 ? i & 7 : i;
        of[index][i] = static_cast<int8_t>(tcq16_table(kBits)[(index << kBits) + k] + c0 * tcq16_shift(kBits)[index]);
        shift[index][i] = tcq16_shift(kBits)[index];
      }
  }
};
template <int kBits>
constexpr RowTables<kBits> kRowTables;

/// Two rows' entries, side by side.
inline __m256i of_rows(const int8_t (&tables)[16][16], uint64_t low, uint64_t high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(tables[low & 15])), load16(tables[high & 15]), 1);
}

// The one decode loop. A block is two halves of 8 rows. In a half, four vectors hold the codes of columns 4 j + p, with
// c0 beside them; a 4 x 4 transpose gives vectors of two rows (rows i and 4 + i of the half) with the 16 columns of
// each in order, where one byte shuffle on the two rows' tables decodes them. use(group, half, rows) takes the four
// vectors of int8; half is a constant.
template <int kBits, typename Use>
inline __attribute__((always_inline)) void decode_tile(const uint8_t* blocks, int64_t groups, const Use& use) {
  static_assert(kBits == 2 || kBits == 3 || kBits == 4);
  const RowTables<kBits>& tables = kRowTables<kBits>;
  // A shuffle does not look at bit 4.
  const __m256i u_bit = _mm256_set1_epi8(1), c0_bit = _mm256_set1_epi8(kBits == 4 ? 16 : 8);
  const __m256i plain_bits = _mm256_set1_epi8(6), top_bit = _mm256_set1_epi8(kBits == 2 ? 2 : 8);
  constexpr uint64_t kUpper = 0xEEEEEEEEEEEEEEEE;

  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(kBits)) {
    const uint8_t* u_words = blocks + trellis_offset(kBits);
    const uint64_t index = word(blocks + index_offset(kBits)), last = word(u_words + 24);
    const uint64_t before_first = ((last << 1) & kUpper) | ((last >> 3) & ~kUpper);
    unroll<2>([&](auto half) TURBOQUANT_INLINE {
      __m256i plain = _mm256_setzero_si256();
      if constexpr (kBits >= 3) plain = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks + 32 * half));
      __m256i before = spread_mask(_mm256_set1_epi32(static_cast<int32_t>(before_first >> (32 * half))));
      __m256i k[4];
      unroll<4>([&](auto j) TURBOQUANT_INLINE {
        const __m256i u = spread_mask(u_words + 8 * j + 4 * half);
        k[j] = _mm256_or_si256(_mm256_and_si256(u, u_bit), _mm256_and_si256(before, c0_bit));
        before = u;
        if constexpr (kBits >= 3)
          k[j] = _mm256_or_si256(
              k[j], _mm256_and_si256(j() == 0 ? _mm256_slli_epi16(plain, 1) : _mm256_srli_epi16(plain, 2 * j() - 1),
                                     plain_bits));
        if constexpr (kBits != 3)
          k[j] = _mm256_or_si256(k[j],
                                 _mm256_and_si256(spread_mask(blocks + top_offset(kBits) + 8 * j + 4 * half), top_bit));
      });
      transpose(k);
      unroll<4>([&](auto i) TURBOQUANT_INLINE {
        const uint64_t low = index >> (4 * (8 * half + i)), high = index >> (4 * (8 * half + 4 + i));
        __m256i q = _mm256_shuffle_epi8(of_rows(tables.of, low, high), k[i]);
        if constexpr (kBits == 4)
          q = _mm256_add_epi8(
              q, _mm256_and_si256(_mm256_cmpgt_epi8(k[i], _mm256_set1_epi8(15)), of_rows(tables.shift, low, high)));
        k[i] = q;
      });
      use(g, half, k);
    });
  }
}

template <typename Use>
inline __attribute__((always_inline)) void decode(int bits, const uint8_t* blocks, int64_t groups, const Use& use) {
  if (bits == 3) {
    decode_tile<3>(blocks, groups, use);
  } else if (bits == 4) {
    decode_tile<4>(blocks, groups, use);
  } else if (bits == 2) {
    decode_tile<2>(blocks, groups, use);
  } else {
    for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(8))
      unroll<2>([&](auto half) TURBOQUANT_INLINE {
        __m256i rows[4];
        for (int j = 0; j < 4; ++j)
          rows[j] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks + 64 * j + 32 * half));
        transpose(rows);
        use(g, half, rows);
      });
  }
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

void tile_dot(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  __m256i acc[2][4] = {};
  decode(bits, blocks, groups, [&](int64_t g, auto half, const __m256i rows[4]) TURBOQUANT_INLINE {
    const __m256i xs = _mm256_broadcastsi128_si256(load16(x + kGroup * g));
    const __m256i xs_abs = _mm256_abs_epi8(xs);
    for (int i = 0; i < 4; ++i) acc[half][i] = _mm256_add_epi32(acc[half][i], dot4(xs, xs_abs, rows[i]));
  });
  // acc[half][i] holds 4 partial sums of row 8 half + i (low 128 bits) and of row 8 half + 4 + i (high).
  for (int half = 0; half < 2; ++half) {
    transpose(acc[half]);
    const __m256i sums =
        _mm256_add_epi32(_mm256_add_epi32(acc[half][0], acc[half][1]), _mm256_add_epi32(acc[half][2], acc[half][3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * half), sums);
  }
}

void tile_panel(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) {
  decode(bits, blocks, groups, [&](int64_t g, auto half, const __m256i rows[4]) TURBOQUANT_INLINE {
    __m256i columns[4] = {rows[0], rows[1], rows[2], rows[3]};
    transpose(columns);
    for (int j = 0; j < 4; ++j)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel + 64 * (4 * g + j) + 32 * half), columns[j]);
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
    const __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 64 * v));
    const __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 64 * v + 32));
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
