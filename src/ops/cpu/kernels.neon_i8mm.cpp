// The product of panels with matrix products of bytes (smmla: ARM FEAT_I8MM): 2 rows of 8 columns times 2 tokens of 8
// columns at once, twice the products of an sdot.
#include "ops/cpu/kernels.h"

#include <arm_neon.h>

#include "core/unroll.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

/// 4 columns each of 4 rows (or tokens), twice, as two matrices of 2 rows and 8 columns.
inline void pair_rows(const void* first, const void* second, int8x16_t out[2]) {
  const int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(static_cast<const int8_t*>(first)));
  const int32x4_t b = vreinterpretq_s32_s8(vld1q_s8(static_cast<const int8_t*>(second)));
  out[0] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
  out[1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
}

/// 8 rows of a panel times 4 kFours tokens, of which `tokens` are added to `out`. 24 of 32 registers hold sums of 12
/// tokens.
template <int kFours>
void panel_dot_tokens(const uint8_t* panel, int64_t groups, const int8_t* x, int tokens, int32_t* out) {
  constexpr int kStride = kTilePair * kTileRows;
  int32x4_t acc[2 * kFours][4];  // [token pair][row pair]: {row 0, 1} of the first token, then of the second
  unroll<2 * kFours>(
      [&](auto t) TURBOQUANT_INLINE { unroll<4>([&](auto i) TURBOQUANT_INLINE { acc[t][i] = vdupq_n_s32(0); }); });
  for (int64_t v = 0; v < 4 * groups; v += 2, x += 8 * kTokenPanel) {
    int8x16_t w[4];
    pair_rows(panel + 64 * v, panel + 64 * (v + 1), w);
    pair_rows(panel + 64 * v + 16, panel + 64 * (v + 1) + 16, w + 2);
    unroll<kFours>([&](auto four) TURBOQUANT_INLINE {
      int8x16_t xs[2];
      pair_rows(x + 16 * four, x + 4 * kTokenPanel + 16 * four, xs);
      unroll<2>([&](auto t) TURBOQUANT_INLINE {
        unroll<4>([&](auto i)
                      TURBOQUANT_INLINE { acc[2 * four + t][i] = vmmlaq_s32(acc[2 * four + t][i], xs[t], w[i]); });
      });
    });
  }
  unroll<2 * kFours>([&](auto t) TURBOQUANT_INLINE {
    unroll<2>([&](auto i) TURBOQUANT_INLINE {
      const int32x4_t a = acc[t][2 * i], b = acc[t][2 * i + 1];
      const int32x4_t sums[2] = {vcombine_s32(vget_low_s32(a), vget_low_s32(b)),
                                 vcombine_s32(vget_high_s32(a), vget_high_s32(b))};
      for (int second = 0; second < 2 && 2 * t + second < tokens; ++second) {
        int32_t* to = out + (2 * t + second) * kStride + 4 * i;
        vst1q_s32(to, vaddq_s32(vld1q_s32(to), sums[second]));
      }
    });
  });
}

}  // namespace

void panel_dot_neon_i8mm(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
                         int32_t* out) {
  static_assert(kTokenPanel == 12);
  const uint8_t* panels[kTilePair] = {panel0, panel1};
  for (int i = 0; i < kTilePair; ++i)
    for (int row = 0; row < kTileRows; row += 8) {
      const uint8_t* panel = panels[i] + 4 * row;
      int32_t* sums = out + i * kTileRows + row;
      if (tokens > 8)
        panel_dot_tokens<3>(panel, groups, x, tokens, sums);
      else if (tokens > 4)
        panel_dot_tokens<2>(panel, groups, x, tokens, sums);
      else
        panel_dot_tokens<1>(panel, groups, x, tokens, sums);
    }
}

}  // namespace turboquant
