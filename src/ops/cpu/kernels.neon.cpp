// NEON kernels for 64-bit ARM with dot products of bytes (sdot: ARMv8.2 FEAT_DotProd).
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

/// sum + products of the bytes of w with the 4 bytes of lane kLane of x.
template <int kLane>
inline __attribute__((always_inline)) int32x4_t dot_lane(int32x4_t sum, int8x16_t w, int8x16_t x) {
  return vdotq_laneq_s32(sum, w, x, kLane);
}

/// Exchanges the 32-bit lanes of four vectors: from one vector a row with a lane a j to one vector a j with a lane a
/// row.
inline void transpose(int8x16_t v[4]) {
  const int32x4_t a = vreinterpretq_s32_s8(v[0]), b = vreinterpretq_s32_s8(v[1]);
  const int32x4_t c = vreinterpretq_s32_s8(v[2]), d = vreinterpretq_s32_s8(v[3]);
  const int64x2_t ab0 = vreinterpretq_s64_s32(vtrn1q_s32(a, b)), ab1 = vreinterpretq_s64_s32(vtrn2q_s32(a, b));
  const int64x2_t cd0 = vreinterpretq_s64_s32(vtrn1q_s32(c, d)), cd1 = vreinterpretq_s64_s32(vtrn2q_s32(c, d));
  v[0] = vreinterpretq_s8_s64(vtrn1q_s64(ab0, cd0));
  v[1] = vreinterpretq_s8_s64(vtrn1q_s64(ab1, cd1));
  v[2] = vreinterpretq_s8_s64(vtrn2q_s64(ab0, cd0));
  v[3] = vreinterpretq_s8_s64(vtrn2q_s64(ab1, cd1));
}

/// Constants of the decode loop, whose vectors are rows of 16 columns: byte 4 j + p is column 4 j + p.
struct RowMasks {
  // Where a plane of masks (4 words, bit 4 r + p of word j) has the bits of rows 0 and 1: bytes 0, 8, 16, 24.
  alignas(16) uint8_t bytes[16];
  // The bit of such a byte, of an even and an odd row; for c0 those of the slot before (quant/tile.h).
  alignas(16) uint8_t bit[2][16], bit_before[2][16];
  // How far the low plain bits of byte p go to the left, to stand in bits 1 and 2.
  alignas(16) int8_t plain_shift[16];

  constexpr RowMasks() : bytes(), bit(), bit_before(), plain_shift() {
    for (int i = 0; i < 16; ++i) {
      const int j = i / 4, p = i % 4;
      bytes[i] = static_cast<uint8_t>(8 * j);
      plain_shift[i] = static_cast<int8_t>(1 - 2 * j);
      for (int odd = 0; odd < 2; ++odd) {
        bit[odd][i] = static_cast<uint8_t>(1 << (4 * odd + p));
        bit_before[odd][i] = static_cast<uint8_t>(1 << (4 * odd + (j == 0 ? (p + 3) % 4 : p)));
      }
    }
  }
};
constexpr RowMasks kRowMasks;

/// The levels of each table by c0 and k: entry (c0 << bits) + k.
template <int kBits>
struct RowTables {
  static constexpr int kEntries = kBits == 4 ? 32 : 16;
  alignas(16) int8_t level[16][kEntries];

  constexpr RowTables() : level() {
    for (int index = 0; index < 16; ++index)
      for (int k = 0; k < 2 << kBits; ++k)
        level[index][k] = static_cast<int8_t>(tcq16_table(kBits)[(index << kBits) + k % (1 << kBits)] +
                                              (k >> kBits) * tcq16_shift(kBits)[index]);
  }
};
template <int kBits>
constexpr RowTables<kBits> kRowTables;

// The one decode loop: calls use(group, row, q) with the 16 integers of each row of each block; row is a constant. A
// row's bits are gathered from the planes, in rows of pairs, which share the bytes of their masks, and one lookup in
// the row's table gives the level, c0 * shift included. Shifts that insert bits need no masks: what stands above the
// inserted bits is overwritten by the next.
template <int kBits, typename Use>
inline __attribute__((always_inline)) void decode_tile(const uint8_t* blocks, int64_t groups, const Use& use) {
  static_assert(kBits == 2 || kBits == 3 || kBits == 4);
  const uint8x16_t bit[2] = {vld1q_u8(kRowMasks.bit[0]), vld1q_u8(kRowMasks.bit[1])};
  const uint8x16_t bit_before[2] = {vld1q_u8(kRowMasks.bit_before[0]), vld1q_u8(kRowMasks.bit_before[1])};
  const int8x16_t plain_shift = vld1q_s8(kRowMasks.plain_shift);
  const uint8x16_t entries = vdupq_n_u8((2 << kBits) - 1), one = vdupq_n_u8(1);
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(kBits)) {
    __builtin_prefetch(blocks + 2048);
    __builtin_prefetch(blocks + 2112);
    const uint64_t index = word(blocks + index_offset(kBits));
    const uint8_t *u_plane = blocks + trellis_offset(kBits), *top_plane = blocks + top_offset(kBits);
    const uint8x16x2_t u = {{vld1q_u8(u_plane), vld1q_u8(u_plane + 16)}};
    uint8x16x2_t top = {};
    if constexpr (kBits != 3) top = {{vld1q_u8(top_plane), vld1q_u8(top_plane + 16)}};
    uint8x16_t at = vld1q_u8(kRowMasks.bytes);
    unroll<8>([&](auto pair) TURBOQUANT_INLINE {
      const uint8x16_t u_bytes = vqtbl2q_u8(u, at);
      const uint8x16_t before_bytes = vextq_u8(u_bytes, u_bytes, 12);  // of the vector j before, of the last for j = 0
      const uint8x16_t top_bytes = kBits != 3 ? vqtbl2q_u8(top, at) : at;
      at = vaddq_u8(at, one);
      unroll<2>([&](auto odd) TURBOQUANT_INLINE {
        constexpr int kRow = 2 * pair() + odd();
        uint8x16_t k = vtstq_u8(u_bytes, bit[odd]);
        if constexpr (kBits >= 3) {
          uint32_t four;
          __builtin_memcpy(&four, blocks + 4 * kRow, 4);
          // Bits 1 and 2 of `plain`; the insertion keeps bit 0 of k.
          const uint8x16_t plain = vshlq_u8(vreinterpretq_u8_u32(vdupq_n_u32(four)), plain_shift);
          k = vbslq_u8(one, k, plain);
        }
        if constexpr (kBits != 3) k = vsliq_n_u8(k, vtstq_u8(top_bytes, bit[odd]), kBits - 1);
        k = vandq_u8(vsliq_n_u8(k, vtstq_u8(before_bytes, bit_before[odd]), kBits), entries);
        const int8_t* levels = kRowTables<kBits>.level[(index >> (4 * kRow)) & 15];
        if constexpr (kBits == 4)
          use(g, std::integral_constant<int, kRow>(), vqtbl2q_s8({{vld1q_s8(levels), vld1q_s8(levels + 16)}}, k));
        else
          use(g, std::integral_constant<int, kRow>(), vqtbl1q_s8(vld1q_s8(levels), k));
      });
    });
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

/// Tiles of int8 need no decoding: a vector has 4 columns of 4 rows, as sdot by a lane of x wants it.
void int8_tile_dot(const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  int32x4_t acc[2][4] = {};
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(8)) {
    const int8x16_t xs = vld1q_s8(x + kGroup * g);
    unroll<4>([&](auto j) TURBOQUANT_INLINE {
      __builtin_prefetch(blocks + 64 * j + 4096);
      unroll<4>([&](auto i) TURBOQUANT_INLINE {
        const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(blocks + 64 * j + 16 * i));
        acc[j % 2][i] = dot_lane<j()>(acc[j % 2][i], w, xs);
      });
    });
  }
  for (int i = 0; i < 4; ++i) vst1q_s32(out + 4 * i, vaddq_s32(acc[0][i], acc[1][i]));
}

void tile_dot(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  if (bits == 8) return int8_tile_dot(blocks, groups, x, out);
  int32x4_t acc[kTileRows] = {};
  decode(bits, blocks, groups, [&](int64_t g, auto row, int8x16_t q) TURBOQUANT_INLINE {
    acc[row] = vdotq_s32(acc[row], q, vld1q_s8(x + kGroup * g));
  });
  for (int r = 0; r < kTileRows; r += 4)
    vst1q_s32(out + r, vpaddq_s32(vpaddq_s32(acc[r], acc[r + 1]), vpaddq_s32(acc[r + 2], acc[r + 3])));
}

void tile_panel(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) {
  if (bits == 8) {
    __builtin_memcpy(panel, blocks, static_cast<size_t>(groups * block_bytes(8)));
    return;
  }
  int8x16_t four[4];
  decode(bits, blocks, groups, [&](int64_t g, auto row, int8x16_t q) TURBOQUANT_INLINE {
    four[row % 4] = q;
    if constexpr (row % 4 == 3) {
      transpose(four);
      for (int j = 0; j < 4; ++j) vst1q_u8(panel + 256 * g + 64 * j + 4 * (row - 3), vreinterpretq_u8_s8(four[j]));
    }
  });
}

/// One panel times kTokens <= 4 tokens; 4 of x are read.
template <int kTokens>
void panel_dot_tokens(const uint8_t* panel, int64_t groups, const int8_t* x, int32_t* out) {
  constexpr int kStride = kTilePair * kTileRows;
  int32x4_t acc[kTokens][4];
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    unroll<4>([&](auto i) TURBOQUANT_INLINE { acc[t][i] = vld1q_s32(out + t * kStride + 4 * i); });
  });
  for (int64_t v = 0; v < 4 * groups; ++v, x += 4 * kTokenPanel) {
    const int8x16_t xs = vld1q_s8(x);
    unroll<4>([&](auto i) TURBOQUANT_INLINE {
      const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(panel + 64 * v + 16 * i));
      unroll<kTokens>([&](auto t) TURBOQUANT_INLINE { acc[t][i] = dot_lane<t()>(acc[t][i], w, xs); });
    });
  }
  unroll<kTokens>([&](auto t) TURBOQUANT_INLINE {
    unroll<4>([&](auto i) TURBOQUANT_INLINE { vst1q_s32(out + t * kStride + 4 * i, acc[t][i]); });
  });
}

void panel_dot(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
               int32_t* out) {
  static_assert(kTokenPanel % 4 == 0);
  const uint8_t* panels[kTilePair] = {panel0, panel1};
  for (int i = 0; i < kTilePair; ++i)
    for (int t = 0; t < tokens; t += 4) {
      const int8_t* xs = x + 4 * t;
      int32_t* sums = out + (t * kTilePair + i) * kTileRows;
      switch (tokens - t) {
        case 1:
          panel_dot_tokens<1>(panels[i], groups, xs, sums);
          break;
        case 2:
          panel_dot_tokens<2>(panels[i], groups, xs, sums);
          break;
        case 3:
          panel_dot_tokens<3>(panels[i], groups, xs, sums);
          break;
        default:
          panel_dot_tokens<4>(panels[i], groups, xs, sums);
      }
    }
}

int64_t peak_int8(int64_t repeats) {
  constexpr int kChains = 12;  // more than latency times instructions a cycle
  volatile int8_t given = 3;   // not known to the compiler
  const int8x16_t a = vdupq_n_s8(given), b = vdupq_n_s8(given);
  int32x4_t acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = vdupq_n_s32(given + i);
  for (int64_t r = 0; r < repeats; ++r)
    unroll<kChains>([&](auto i) TURBOQUANT_INLINE { acc[i] = vdotq_s32(acc[i], a, b); });
  for (int i = 1; i < kChains; ++i) acc[0] = vaddq_s32(acc[0], acc[i]);
  given = static_cast<int8_t>(vaddvq_s32(acc[0]));
  return repeats * kChains * 16;
}

constexpr Kernels table(CpuLevel level, decltype(Kernels::panel_dot) panels) {
  return {
      .level = level,
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
      .panel_dot = panels,
      .bias = 0,
      .scale_tile = scale_tile,
      .attend_page_f16 = attend_page<LoadF16>,
      .attend_page_f32 = attend_page<LoadF32>,
      .attend_blocks = attend_blocks_neon,
      .attend_merge = attend_merge,
      .conv1d = conv1d,
      .gated_delta = gated_delta,
  };
}

}  // namespace

constinit const Kernels kNeonKernels = table(CpuLevel::neon, panel_dot);
constinit const Kernels kNeonI8mmKernels = table(CpuLevel::neon_i8mm, panel_dot_neon_i8mm);

}  // namespace turboquant
