// AVX-512 (VBMI, VNNI) kernels.
#include "ops/cpu/kernels.h"

#include "core/unroll.h"
#include "ops/cpu/delta_chunk.h"
#include "ops/cpu/delta_kernels.h"
#include "ops/cpu/float_kernels.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

// vpdpbusd multiplies unsigned by signed bytes: weights are q + 128.
constexpr int32_t kBias = 128;
constexpr uint64_t kUpper = 0xEEEEEEEEEEEEEEEE;  // bits 1..3 of every nibble: one mask nibble a row

inline __m512i broadcast_table(const int8_t* table) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}

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

// The one decode loop: calls use(group, j, q + 128) for each of the 4 * groups vectors of the tile, in order; j is a
// constant.
template <int kBits, typename Use>
inline __attribute__((always_inline)) void decode_tile(const uint8_t* blocks, int64_t groups, const Use& use) {
  static_assert(kBits == 2 || kBits == 3 || kBits == 4);
  constexpr int kIndexAt = kBits == 2 ? 2 : kBits == 3 ? 3 : 4;
  constexpr int64_t kBytes = block_bytes(kBits);
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  const int8_t* tables = tcq16_table(kBits);
  __m512i table[kBits == 2 ? 1 : kBits == 3 ? 2 : 4];
  for (unsigned i = 0; i < sizeof table / sizeof table[0]; ++i)
    table[i] = _mm512_xor_si512(_mm512_loadu_si512(tables + 64 * i), flip);
  const __m512i shifts = broadcast_table(tcq16_shift(kBits));
  const __m512i one = _mm512_set1_epi8(1);
  const __m512i plain_bits = _mm512_set1_epi8(6);
  const __m512i top = _mm512_set1_epi8(kBits == 2 ? 2 : 8);
  const __m512i index_bits = _mm512_set1_epi8(static_cast<char>(15 << kIndexAt));
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i spread = _mm512_load_si512(kSpreadOffsets<kIndexAt>.of_byte);

  for (int64_t g = 0; g < groups; ++g, blocks += kBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(blocks) + 3072, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(blocks) + 3136, _MM_HINT_T0);
    if constexpr (kBits == 4) _mm_prefetch(reinterpret_cast<const char*>(blocks) + 3200, _MM_HINT_T0);
    const uint8_t* u_words = blocks + trellis_offset(kBits);
    const uint8_t* top_words = blocks + top_offset(kBits);
    const __m512i index =
        _mm512_and_si512(_mm512_multishift_epi64_epi8(
                             spread, _mm512_set1_epi64(static_cast<int64_t>(word(blocks + index_offset(kBits))))),
                         index_bits);
    const __m512i row = _mm512_and_si512(_mm512_srli_epi16(index, kIndexAt), nibble);
    const __m512i shift = _mm512_shuffle_epi8(shifts, row);
    const __mmask64 upper_tables = kBits == 4 ? _mm512_movepi8_mask(index) : 0;
    const uint64_t last = word(u_words + 24);
    __mmask64 before = ((last << 1) & kUpper) | ((last >> 3) & ~kUpper);
    __m512i plain = _mm512_setzero_si512();
    if constexpr (kBits >= 3) plain = _mm512_loadu_si512(blocks);
    unroll<4>([&](auto j) TURBOQUANT_INLINE {
      const __mmask64 u = word(u_words + 8 * j);
      __m512i k = index;
      if constexpr (kBits >= 3) {
        const __m512i codes = j() == 0 ? _mm512_slli_epi16(plain, 1) : _mm512_srli_epi16(plain, 2 * j() - 1);
        k = _mm512_ternarylogic_epi32(codes, plain_bits, index, 0xEA);  // (codes & plain_bits) | index
      }
      if constexpr (kBits != 3) k = _mm512_mask_add_epi8(k, word(top_words + 8 * j), k, top);
      k = _mm512_mask_add_epi8(k, u, k, one);
      __m512i q;
      if constexpr (kBits == 2) {
        q = _mm512_permutexvar_epi8(k, table[0]);
      } else if constexpr (kBits == 3) {
        q = _mm512_permutex2var_epi8(table[0], k, table[1]);
      } else {
        q = _mm512_mask_blend_epi8(upper_tables, _mm512_permutex2var_epi8(table[0], k, table[1]),
                                   _mm512_permutex2var_epi8(table[2], k, table[3]));
      }
      q = _mm512_mask_add_epi8(q, before, q, shift);
      before = u;
      use(g, j, q);
    });
  }
}

template <typename Use>
inline __attribute__((always_inline)) void decode_int8_tile(const uint8_t* blocks, int64_t groups, const Use& use) {
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(8))
    unroll<4>([&](auto j) TURBOQUANT_INLINE {
      _mm_prefetch(reinterpret_cast<const char*>(blocks) + 64 * j + 4096, _MM_HINT_T0);
      use(g, j, _mm512_xor_si512(_mm512_loadu_si512(blocks + 64 * j), flip));
    });
}

template <typename Use>
inline __attribute__((always_inline)) void decode(int bits, const uint8_t* blocks, int64_t groups, const Use& use) {
  if (bits == 3)
    decode_tile<3>(blocks, groups, use);
  else if (bits == 4)
    decode_tile<4>(blocks, groups, use);
  else if (bits == 2)
    decode_tile<2>(blocks, groups, use);
  else
    decode_int8_tile(blocks, groups, use);
}

void tile_dot(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  __m512i acc[4] = {};
  decode(bits, blocks, groups, [&](int64_t g, auto j, __m512i q) TURBOQUANT_INLINE {
    int32_t four;
    __builtin_memcpy(&four, x + kGroup * g + 4 * j, 4);
    acc[j] = _mm512_dpbusd_epi32(acc[j], q, _mm512_set1_epi32(four));
  });
  _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]), _mm512_add_epi32(acc[2], acc[3])));
}

void tile_panel(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) {
  decode(bits, blocks, groups,
         [&](int64_t g, auto j, __m512i q) TURBOQUANT_INLINE { _mm512_storeu_si512(panel + 256 * g + 64 * j, q); });
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

}  // namespace

constinit const Kernels kAvx512Kernels = {
    .level = CpuLevel::avx512,
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

}  // namespace turboquant
