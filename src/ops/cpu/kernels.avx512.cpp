// AVX-512 (VBMI, VNNI) kernels.
#include "ops/cpu/kernels.h"

#include "core/unroll.h"
#include "ops/cpu/delta_chunk.h"
#include "ops/cpu/delta_kernels.h"
#include "ops/cpu/fetch_ahead.h"
#include "ops/cpu/float_kernels.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

// vpdpbusd multiplies unsigned by signed bytes: weights are q + 128.
constexpr int32_t kBias = 128;
constexpr uint64_t kUpper = 0xEEEEEEEEEEEEEEEE;  // bits 1..3 of every nibble: one mask nibble a row

inline uint64_t word(const uint8_t* p) {
  uint64_t w;
  __builtin_memcpy(&w, p, 8);
  return w;
}

/// Bit offsets that put row r's index nibble at bit kAt of each of its 4 bytes.
template <int kAt>
struct SpreadOffsets {
  alignas(64) int8_t of_byte[64];
  constexpr SpreadOffsets() : of_byte() {
    for (int i = 0; i < 64; ++i) of_byte[i] = static_cast<int8_t>((i / 4 * 4 - kAt) & 63);
  }
};
template <int kAt>
constexpr SpreadOffsets<kAt> kSpreadOffsets;

/// Row r's index nibble at bit kAt of each of its 4 bytes; the other bits are of other rows.
template <int kAt>
inline __m512i spread_index(uint64_t index) {
  return _mm512_multishift_epi64_epi8(_mm512_load_si512(kSpreadOffsets<kAt>.of_byte),
                                      _mm512_set1_epi64(static_cast<int64_t>(index)));
}

/// mask ? a : b, bit by bit.
inline __m512i select_bits(__m512i mask, __m512i a, __m512i b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xCA); }
inline __m512i all_bytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }

/// The 64-bit words of a block, one bit a weight, turned so that each weight has its bits of all vectors in one byte:
/// bit b of that byte is the weight's bit in word words[b]. Words 0..3 are the top bits of vectors 0..3, 4..7 the u.
struct TurnedBits {
  alignas(64) int8_t from[64];
  constexpr explicit TurnedBits(const int (&words)[8]) : from() {
    // gf2p8affineqb takes the bits of byte 7 - b of a qword for bit b.
    for (int i = 0; i < 64; ++i) from[i] = static_cast<int8_t>(8 * words[7 - i % 8] + i / 8);
  }
};
inline __m512i turn_bits(__m512i words, const TurnedBits& order) {
  const __m512i each_bit = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201));
  return _mm512_gf2p8affine_epi64_epi8(each_bit, _mm512_permutexvar_epi8(_mm512_load_si512(order.from), words), 0);
}

/// The integers that a decoded weight can be, + 128, by its bits k: from the lowest on of vector j as the loops below
/// put them together.
template <int kBits>
struct DecodeTable {
  alignas(64) uint8_t of[kBits == 4 ? 256 : 128];
  constexpr DecodeTable() : of() {
    for (int k = 0; k < static_cast<int>(sizeof of); ++k) {
      const int index = k >> (kBits == 4 ? 4 : 3);
      int code = 0, c0 = 0;
      if (kBits == 2) {  // c0, u, top
        code = (k >> 1 & 1) | (k >> 2 & 1) << 1;
        c0 = k & 1;
      } else if (kBits == 3) {  // plain bits, u
        code = (k >> 2 & 1) | (k & 3) << 1;
      } else {  // u, top, low plain bits
        code = (k & 1) | (k >> 2 & 3) << 1 | (k >> 1 & 1) << 3;
      }
      of[k] =
          static_cast<uint8_t>(tcq16_table(kBits)[(index << kBits) + code] + c0 * tcq16_shift(kBits)[index] + kBias);
    }
  }
  __m512i part(int i) const { return _mm512_load_si512(of + 64 * i); }
};
template <int kBits>
constexpr DecodeTable<kBits> kDecodeTable;

/// shift of a row's index, whatever the two bits above the index are.
template <int kBits>
struct ShiftTable {
  alignas(64) int8_t of[64];
  constexpr ShiftTable() : of() {
    for (int i = 0; i < 64; ++i) of[i] = tcq16_shift(kBits)[i % 16];
  }
};
template <int kBits>
constexpr ShiftTable<kBits> kShiftTable;

// One decode loop a number of bits: calls use(group, j, q + 128) for each of the 4 * groups vectors of the tile, in
// order; j is a constant. What they count is vector instructions, as all three are bound by these: moves of masks from
// memory cost as much as one and a half, so that bits are turned into bytes where that takes fewer.
template <bool kFetchAhead, typename Use>
inline __attribute__((always_inline)) void decode_2_bits(const uint8_t* blocks, int64_t groups, const Use& use) {
  // Bits 0..2 for vectors 0 and 2, bits 3..5 for 1 and 3: u of the vector before, u, top. Bit 7: u of vector 3.
  static constexpr TurnedBits kFirst({0, 4, 0, 4, 5, 1, 0, 0}), kSecond({5, 6, 2, 6, 7, 3, 0, 7});
  const __m512i table[2] = {kDecodeTable<2>.part(0), kDecodeTable<2>.part(1)};
  const __m512i code_bits = all_bytes(7), lowest = all_bytes(1);
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(2)) {
    if constexpr (kFetchAhead) fetch_ahead<2>(blocks);
    const __m512i index = spread_index<3>(word(blocks + index_offset(2)));
    const __m512i words = _mm512_loadu_si512(blocks);
    const __m512i second = turn_bits(words, kSecond);
    // u of the vector before vector 0 is that of vector 3, of the neighbouring byte: bit 7 of one is bit 0 of the next.
    const __m512i first = select_bits(lowest, _mm512_rol_epi32(second, 1), turn_bits(words, kFirst));
    unroll<4>([&](auto j) TURBOQUANT_INLINE {
      __m512i bits = j() < 2 ? first : second;
      if constexpr (j() % 2 != 0) bits = _mm512_srli_epi16(bits, 3);
      use(g, j, _mm512_permutex2var_epi8(table[0], select_bits(code_bits, bits, index), table[1]));
    });
  }
}

template <bool kFetchAhead, typename Use>
inline __attribute__((always_inline)) void decode_3_bits(const uint8_t* blocks, int64_t groups, const Use& use) {
  const __m512i table[2] = {kDecodeTable<3>.part(0), kDecodeTable<3>.part(1)};
  const __m512i shifts = _mm512_load_si512(kShiftTable<3>.of);
  const __m512i plain_bits = all_bytes(3), index_bits = all_bytes(0x78), u_bit = all_bytes(4);
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(3)) {
    if constexpr (kFetchAhead) fetch_ahead<3>(blocks);
    const uint8_t* u_words = blocks + trellis_offset(3);
    const uint64_t indices = word(blocks + index_offset(3));
    const __m512i index = _mm512_and_si512(spread_index<3>(indices), index_bits);
    const __m512i shift = _mm512_permutexvar_epi8(spread_index<0>(indices), shifts);
    const uint64_t last = word(u_words + 24);
    __mmask64 before = ((last << 1) & kUpper) | ((last >> 3) & ~kUpper);
    const __m512i plain = _mm512_loadu_si512(blocks);
    unroll<4>([&](auto j) TURBOQUANT_INLINE {
      const __mmask64 u = word(u_words + 8 * j);
      const __m512i codes = j() == 0 ? plain : _mm512_srli_epi16(plain, 2 * j());
      __m512i k = _mm512_ternarylogic_epi32(codes, plain_bits, index, 0xEA);  // (codes & plain_bits) | index
      k = _mm512_mask_add_epi8(k, u, k, u_bit);
      __m512i q = _mm512_permutex2var_epi8(table[0], k, table[1]);
      q = _mm512_mask_add_epi8(q, before, q, shift);
      before = u;
      use(g, j, q);
    });
  }
}

template <bool kFetchAhead, typename Use>
inline __attribute__((always_inline)) void decode_4_bits(const uint8_t* blocks, int64_t groups, const Use& use) {
  static constexpr TurnedBits kOrder({4, 0, 5, 1, 6, 2, 7, 3});  // of each vector u and top
  const __m512i table[4] = {kDecodeTable<4>.part(0), kDecodeTable<4>.part(1), kDecodeTable<4>.part(2),
                            kDecodeTable<4>.part(3)};
  const __m512i shifts = _mm512_load_si512(kShiftTable<4>.of);
  const __m512i low_bits = all_bytes(0x33), code_bits = all_bytes(15);
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(4)) {
    if constexpr (kFetchAhead) fetch_ahead<4>(blocks);
    const uint64_t indices = word(blocks + index_offset(4));
    const __m512i index = spread_index<4>(indices);
    const __mmask64 upper_tables = _mm512_movepi8_mask(index);
    const __m512i shift = _mm512_permutexvar_epi8(spread_index<0>(indices), shifts);
    const __m512i plain = _mm512_loadu_si512(blocks);
    const __m512i bits = turn_bits(_mm512_loadu_si512(blocks + top_offset(4)), kOrder);
    // A nibble a vector: of 0 and 2, and of 1 and 3.
    const __m512i even = select_bits(low_bits, bits, _mm512_slli_epi16(plain, 2));
    const __m512i odd = select_bits(low_bits, _mm512_srli_epi16(bits, 2), plain);
    unroll<4>([&](auto j) TURBOQUANT_INLINE {
      __m512i code = j() % 2 == 0 ? even : odd;
      if constexpr (j() >= 2) code = _mm512_srli_epi16(code, 4);
      const __m512i k = select_bits(code_bits, code, index);
      __m512i q = _mm512_mask_blend_epi8(upper_tables, _mm512_permutex2var_epi8(table[0], k, table[1]),
                                         _mm512_permutex2var_epi8(table[2], k, table[3]));
      // u of the vector before, for vector 0 that of the neighbouring byte in vector 3.
      const __mmask64 before = j() == 0 ? _mm512_test_epi8_mask(_mm512_rol_epi32(bits, 8), all_bytes(1 << 6))
                                        : _mm512_test_epi8_mask(bits, all_bytes(1 << (2 * j() - 2)));
      q = _mm512_mask_add_epi8(q, before, q, shift);
      use(g, j, q);
    });
  }
}

template <bool kFetchAhead, typename Use>
inline __attribute__((always_inline)) void decode_int8_tile(const uint8_t* blocks, int64_t groups, const Use& use) {
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(8)) {
    if constexpr (kFetchAhead) fetch_ahead<8>(blocks);
    unroll<4>([&](auto j)
                  TURBOQUANT_INLINE { use(g, j, _mm512_xor_si512(_mm512_loadu_si512(blocks + 64 * j), flip)); });
  }
}

template <bool kFetchAhead, typename Use>
inline __attribute__((always_inline)) void decode(int bits, const uint8_t* blocks, int64_t groups, const Use& use) {
  if (bits == 3)
    decode_3_bits<kFetchAhead>(blocks, groups, use);
  else if (bits == 4)
    decode_4_bits<kFetchAhead>(blocks, groups, use);
  else if (bits == 2)
    decode_2_bits<kFetchAhead>(blocks, groups, use);
  else
    decode_int8_tile<kFetchAhead>(blocks, groups, use);
}

void tile_dot(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  __m512i acc[4] = {};
  decode<false>(bits, blocks, groups, [&](int64_t g, auto j, __m512i q) TURBOQUANT_INLINE {
    int32_t four;
    __builtin_memcpy(&four, x + kGroup * g + 4 * j, 4);
    acc[j] = _mm512_dpbusd_epi32(acc[j], q, _mm512_set1_epi32(four));
  });
  _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]), _mm512_add_epi32(acc[2], acc[3])));
}

int64_t peak_int8(int64_t repeats) {
  constexpr int kChains = 12;  // more than latency times instructions a cycle
  volatile int given = 3;      // not known to the compiler
  const __m512i a = _mm512_set1_epi8(static_cast<char>(given)), b = _mm512_set1_epi8(static_cast<char>(given));
  __m512i acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_epi32(given + i);
  for (int64_t r = 0; r < repeats; ++r)
    unroll<kChains>([&](auto i) TURBOQUANT_INLINE { acc[i] = _mm512_dpbusd_epi32(acc[i], a, b); });
  int sum = 0;
  for (const __m512i& x : acc) sum += _mm512_reduce_add_epi32(x);
  given = sum;
  return repeats * kChains * 64;
}

// Accumulators of one token are a chain of dependent additions: two of them where a few tokens leave it the bound.
template <int kTokens>
void tile_dots_of(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int tokens, int32_t* out) {
  constexpr int kChains = kTokens <= 4 ? 2 : 1;
  __m512i acc[kTokens][kChains] = {};
  decode<true>(bits, blocks, groups, [&](int64_t g, auto j, __m512i q) TURBOQUANT_INLINE {
    const int8_t* column = x + (4 * g + j) * 4 * kTokenPanel;
    unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
      int32_t four;
      __builtin_memcpy(&four, column + 4 * t, 4);
      acc[t][j % kChains] = _mm512_dpbusd_epi32(acc[t][j % kChains], q, _mm512_set1_epi32(four));
    });
  });
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    __m512i sum = acc[t][0];
    if constexpr (kChains == 2) sum = _mm512_add_epi32(sum, acc[t][1]);
    if (t < tokens) _mm512_storeu_si512(out + t * kTileRows, sum);
  });
}

void tile_dots(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int tokens, int32_t* out) {
  if (tokens <= 2)
    tile_dots_of<2>(bits, blocks, groups, x, tokens, out);
  else if (tokens <= 4)
    tile_dots_of<4>(bits, blocks, groups, x, tokens, out);
  else
    tile_dots_of<8>(bits, blocks, groups, x, tokens, out);
}

void tile_panel(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) {
  decode<true>(bits, blocks, groups, [&](int64_t g, auto j, __m512i q) TURBOQUANT_INLINE {
    _mm512_storeu_si512(panel + 256 * g + 64 * j, q);
  });
}

template <int kTokens>
void panel_dot_tokens(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int32_t* out) {
  static_assert(kTilePair == 2);
  __m512i acc0[kTokens], acc1[kTokens];
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    acc0[t] = _mm512_loadu_si512(out + 2 * t * kTileRows);
    acc1[t] = _mm512_loadu_si512(out + (2 * t + 1) * kTileRows);
  });
  for (int64_t v = 0; v < 4 * groups; ++v, x += 4 * kTokenPanel) {
    const __m512i w0 = _mm512_loadu_si512(panel0 + 64 * v), w1 = _mm512_loadu_si512(panel1 + 64 * v);
    unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
      int32_t four;
      __builtin_memcpy(&four, x + 4 * t, 4);
      const __m512i xs = _mm512_set1_epi32(four);
      acc0[t] = _mm512_dpbusd_epi32(acc0[t], w0, xs);
      acc1[t] = _mm512_dpbusd_epi32(acc1[t], w1, xs);
    });
  }
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    _mm512_storeu_si512(out + 2 * t * kTileRows, acc0[t]);
    _mm512_storeu_si512(out + (2 * t + 1) * kTileRows, acc1[t]);
  });
}

void panel_dot(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
               int32_t* out) {
  // The largest kernel that fits, again and again: 12, 8, 4, 2, 1 tokens.
  constexpr int64_t kOut = kTilePair * kTileRows;
  while (tokens > 0) {
    const int now = tokens >= 12 ? 12 : tokens >= 8 ? 8 : tokens >= 4 ? 4 : tokens >= 2 ? 2 : 1;
    switch (now) {
      case 12:
        panel_dot_tokens<12>(panel0, panel1, groups, x, out);
        break;
      case 8:
        panel_dot_tokens<8>(panel0, panel1, groups, x, out);
        break;
      case 4:
        panel_dot_tokens<4>(panel0, panel1, groups, x, out);
        break;
      case 2:
        panel_dot_tokens<2>(panel0, panel1, groups, x, out);
        break;
      default:
        panel_dot_tokens<1>(panel0, panel1, groups, x, out);
    }
    tokens -= now;
    x += 4 * now;
    out += kOut * now;
  }
}

constexpr Kernels kTable = {
    .level = CpuLevel::avx512,
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
    .tile_dots = tile_dots,
    .shared_tokens = 8,
    .tile_panel = tile_panel,
    .panel_dot = panel_dot,
    .bias = kBias,
    .scale_tile = scale_tile,
    .attend_page_f16 = attend_page<LoadF16>,
    .attend_page_f32 = attend_page<LoadF32>,
    .attend_blocks = attend_blocks_avx512,
    .attend_merge = attend_merge,
    .conv1d = conv1d,
    .gated_delta = gated_delta,
};

/// The same but for products of bytes as matrices.
constexpr Kernels with_amx(Kernels table) {
  table.level = CpuLevel::amx;
  table.peak_int8 = peak_int8_amx;
  table.tile_panel = tile_panel_amx;
  table.panel_dot = panel_dot_amx;
  return table;
}

}  // namespace

constinit const Kernels kAvx512Kernels = kTable;
constinit const Kernels kAmxKernels = with_amx(kTable);

}  // namespace turboquant
