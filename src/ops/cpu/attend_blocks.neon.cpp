// Attention over compressed blocks with NEON and dot products of bytes.
#include "ops/cpu/attend_blocks.h"

namespace turboquant {
namespace {

/// 0xff in byte b of the result where bit 16 kQuarter + b of the mask is set.
template <int kQuarter>
inline uint8x16_t spread_mask(uint64_t mask) {
  static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bytes = vcombine_u8(vdup_n_u8(2 * kQuarter), vdup_n_u8(2 * kQuarter + 1));
  const uint8x16_t spread = vqtbl1q_u8(vcombine_u8(vcreate_u8(mask), vdup_n_u8(0)), bytes);
  return vtstq_u8(spread, vld1q_u8(kBit));
}

/// sum + products of the bytes of w with the 4 bytes of lane kLane of x.
template <int kLane>
inline __attribute__((always_inline)) int32x4_t dot_lane(int32x4_t sum, int8x16_t w, int8x16_t x) {
  return vdotq_laneq_s32(sum, w, x, kLane);
}

/// Decodes the vectors of a side, 64 codes each, by quarters.
template <int kBits>
struct Decoder {
  int8x16x2_t table = {};
  const uint8_t *plain = nullptr, *top = nullptr;

  Decoder() {
    if constexpr (kBits == 8) return;
    const int8_t* levels = kv_levels(kBits);
    if constexpr (kBits == 2) {
      table.val[0] = vcombine_s8(vld1_s8(levels), vdup_n_s8(0));
    } else {
      table.val[0] = vld1q_s8(levels);
      if constexpr (kBits == 4) table.val[1] = vld1q_s8(levels + 16);
    }
  }
  void use(const uint8_t* side, int64_t dim) {
    plain = side;
    top = side + kv_top_offset(kBits, dim);
  }

  /// A quarter of vector v + kAt of the side, v a multiple of 4. Shifts that insert bits need no masks: what stands
  /// above the inserted bits is overwritten by the next.
  template <int kAt, int kQuarter>
  __attribute__((always_inline)) int8x16_t quarter(int64_t v, const TrellisMasks& masks) const {
    if constexpr (kBits == 8) {
      return vreinterpretq_s8_u8(vld1q_u8(plain + 64 * (v + kAt) + 16 * kQuarter));
    } else {
      uint8x16_t index = vsliq_n_u8(spread_mask<kQuarter>(masks.before), spread_mask<kQuarter>(masks.changed), 1);
      if constexpr (kBits >= 3) {
        uint8x16_t codes = vld1q_u8(plain + 16 * v + 16 * kQuarter);
        if constexpr (kAt > 0) codes = vshrq_n_u8(codes, 2 * kAt);
        index = vsliq_n_u8(index, codes, 2);
      }
      if constexpr (kBits != 3)
        index = vsliq_n_u8(index, spread_mask<kQuarter>(word(top + 8 * (v + kAt))), kBits == 4 ? 4 : 2);
      index = vandq_u8(index, vdupq_n_u8((2 << kBits) - 1));
      if constexpr (kBits == 4) return vqtbl2q_s8(table, index);
      return vqtbl1q_s8(table.val[0], index);
    }
  }
  template <int kAt>
  __attribute__((always_inline)) int8x16x4_t vector(int64_t v, const TrellisMasks& masks) const {
    return {
        {quarter<kAt, 0>(v, masks), quarter<kAt, 1>(v, masks), quarter<kAt, 2>(v, masks), quarter<kAt, 3>(v, masks)}};
  }
};

struct Codes128 {
  static constexpr int32_t kBias = 0;
  static constexpr int kMostRows = 4;
  static constexpr int kHalves = 1;  // of 64 codes

  template <int kBits>
  static Decoder<kBits> decoder(const uint8_t* side, int64_t dim, int /*half*/) {
    Decoder<kBits> result;
    result.use(side, dim);
    return result;
  }
  static void store(const int8x16x4_t& levels, uint8_t* out) {
    for (int i = 0; i < 4; ++i) vst1q_u8(out + 16 * i, vreinterpretq_u8_s8(levels.val[i]));
  }

  static Floats load_difference(const int32_t* x, int32_t /*offset*/) { return Floats::load_difference(x, 0); }

  static int32_t split_weights(const float* w, int tokens, float inverse, uint8_t* upper, uint8_t* lower) {
    const auto whole = [&](int t) TURBOQUANT_INLINE {
      return vreinterpret_u16_s16(vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(w + t), inverse))));
    };
    for (int t = 0; t < tokens; t += 8) {
      const uint16x8_t x = vcombine_u16(whole(t), whole(t + 4));
      vst1_u8(upper + t, vshrn_n_u16(x, 7));
      vst1_u8(lower + t, vand_u8(vmovn_u16(x), vdup_n_u8(127)));
    }
    return 0;  // of no use without a bias
  }

  template <int kBits, int kRows>
  static void sum_keys(const uint8_t* keys, int64_t dim, int64_t token, SpanRows<kRows>& rows, const KeyFetch& fetch) {
    const int64_t n = dim / 4;
    const uint8_t* words = keys + kv_trellis_offset(kBits, dim);
    Decoder<kBits> decoder;
    decoder.use(keys, dim);
    for (int tile = 0; tile < 4; ++tile) {
      KeyMasks masks(words + 8 * tile * n, n);
      int32x4_t acc[kRows][4];
      unroll<kRows>(
          [&](auto r) TURBOQUANT_INLINE { unroll<4>([&](auto i) TURBOQUANT_INLINE { acc[r][i] = vdupq_n_s32(0); }); });
      for (int64_t v = 0; v < n; v += 4) {
        fetch.step(tile * (n / 4) + v / 4, 4 * (n / 4));
        int8x16_t q[kRows];
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE { q[r] = vld1q_s8(rows.q[r] + 4 * v); });
        unroll<4>([&](auto j) TURBOQUANT_INLINE {
          const int8x16x4_t levels = decoder.template vector<j()>(tile * n + v, masks.next());
          unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
            unroll<4>([&](auto i) TURBOQUANT_INLINE { acc[r][i] = dot_lane<j()>(acc[r][i], levels.val[i], q[r]); });
          });
        });
      }
      unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
        unroll<4>([&](auto i) TURBOQUANT_INLINE { vst1q_s32(rows.score[r] + token + 16 * tile + 4 * i, acc[r][i]); });
      });
    }
  }

  // Two quarters of a tile at once: 16 registers hold the sums of four rows.
  template <int kBits, int kRows, int kFirst>
  static void value_quarters(const AttendBlocks& a, const SpanSides& sides, int64_t tile, SpanRows<kRows>& rows) {
    const int64_t dim = a.head_dim;
    Decoder<kBits> decoder;
    int32x4_t upper[kRows][2], lower[kRows][2];
    unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
      unroll<2>([&](auto i) TURBOQUANT_INLINE { upper[r][i] = lower[r][i] = vdupq_n_s32(0); });
    });
    for (int64_t block = 0; block < a.count; ++block) {
      const uint8_t* values = sides.values[block];
      if (block < a.next_count) fetch(a.next[block], kv_side_bytes(a.key_bits, dim), 2 * tile + kFirst / 2, dim / 8);
      decoder.use(values, dim);
      const ValueMasks masks(values + kv_trellis_offset(kBits, dim), dim / 16, tile);
      for (int64_t v = 0; v < 16; v += 4) {
        const int64_t token = block * kTokens + 4 * v;
        int8x16_t levels[4][2];
        unroll<4>([&](auto j) TURBOQUANT_INLINE {
          unroll<2>([&](auto i) TURBOQUANT_INLINE {
            levels[j][i] = decoder.template quarter<j(), kFirst + i()>(16 * tile + v, masks.at(v + j));
          });
        });
        unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
          const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(rows.weight[0][r] + token));
          const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(rows.weight[1][r] + token));
          unroll<4>([&](auto j) TURBOQUANT_INLINE {
            unroll<2>([&](auto i) TURBOQUANT_INLINE {
              upper[r][i] = dot_lane<j()>(upper[r][i], levels[j][i], w);
              lower[r][i] = dot_lane<j()>(lower[r][i], levels[j][i], x);
            });
          });
        });
      }
    }
    unroll<kRows>([&](auto r) TURBOQUANT_INLINE {
      unroll<2>([&](auto i) TURBOQUANT_INLINE {
        vst1q_s32(rows.values[r] + 16 * tile + 4 * (kFirst + i), vaddq_s32(vshlq_n_s32(upper[r][i], 7), lower[r][i]));
      });
    });
  }

  template <int kBits, int kRows>
  static void sum_values(const AttendBlocks& a, const SpanSides& sides, SpanRows<kRows>& rows) {
    for (int64_t tile = 0; tile < a.head_dim / 16; ++tile) {
      value_quarters<kBits, kRows, 0>(a, sides, tile, rows);
      value_quarters<kBits, kRows, 2>(a, sides, tile, rows);
    }
  }
};

}  // namespace

void attend_blocks_neon(const AttendBlocks& blocks) { attend_blocks_any<Codes128>(blocks); }

}  // namespace turboquant
