// Products of panels with AMX: tiles of bytes multiplied as matrices, 16 rows of 64 columns times 12 tokens an
// instruction. A template over what has the tiles, so that tests run it without such a processor: they emulate the
// instructions. That, and not a processor with AMX, is all that this code has been run on so far.
//
// The weights are the instruction's first operand, row-major, so that a panel's order at this level is steps of 4
// groups, each [16 rows][64 columns], and where groups % 4 = m is not 0 a last step of [16 rows][16 m columns]:
//
//     row r, column k of 16 * groups:  1024 * s + 16 * m * r + k - 64 * s,  s = k / 64, m = min(4, groups - 4 * s)
//
// The second operand wants 4 columns of each token side by side: packed activations as they are.
//
// For files compiled for newer processors, too: all is in an unnamed namespace (core/simd.h says why).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/unroll.h"
#include "ops/cpu/kernels.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

/// The number of a tile register, 0..7, which is a constant of the instruction.
template <int kNumber>
using TileNumber = std::integral_constant<int, kNumber>;

/// The operand of LDTILECFG: the shapes of the tile registers.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};  // of registers 0..7; the others are reserved
  uint8_t rows[16] = {};

  constexpr void set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

constexpr int kStepGroups = 4;  // 64 columns, a row of a tile
constexpr int kAmxChains = 2;   // sums that take turns: a product is there long after the unit could begin the next
constexpr int kSumTiles = kAmxChains * kTilePair;
using WeightsTile = TileNumber<kSumTiles>;
using TokensTile = TileNumber<kSumTiles + kTilePair>;

/// The shapes of the registers for steps of so many groups: sums, then weights, then activations.
struct StepConfig : TileConfig {
  constexpr explicit StepConfig(int groups) {
    for (int i = 0; i < kSumTiles; ++i) set(i, kTileRows, 4 * kTokenPanel);
    for (int i = 0; i < kTilePair; ++i) set(WeightsTile() + i, kTileRows, groups * kGroup);
    set(TokensTile(), groups * kGroup / 4, 4 * kTokenPanel);
  }
};
constexpr StepConfig kStepConfigs[kStepGroups] = {StepConfig(1), StepConfig(2), StepConfig(3), StepConfig(4)};

typedef int32_t FourInts __attribute__((vector_size(16)));

inline FourInts load_four(const void* from) {
  FourInts v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void transpose(FourInts (&v)[4]) {
  const FourInts a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5),
                 b = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
  const FourInts c = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5),
                 d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
  v[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  v[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  v[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  v[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/// From [4 * groups][16 rows][4 columns], the order of the other levels, to this one's. The two do not overlap.
inline void order_panel(const uint8_t* from, int64_t groups, uint8_t* panel) {
  constexpr int64_t kGroupBytes = kTileRows * kGroup;
  for (int64_t g = 0; g < groups; ++g, from += kGroupBytes) {
    const int64_t in_step = g % kStepGroups, first = g - in_step;
    const int64_t row_bytes = kGroup * (groups - first < kStepGroups ? groups - first : kStepGroups);
    uint8_t* to = panel + first * kGroupBytes + in_step * kGroup;
    for (int r = 0; r < kTileRows; r += 4, to += 4 * row_bytes) {
      FourInts v[4];
      for (int j = 0; j < 4; ++j) v[j] = load_four(from + 64 * j + 4 * r);
      transpose(v);
      for (int i = 0; i < 4; ++i) std::memcpy(to + i * row_bytes, &v[i], sizeof v[i]);
    }
  }
}

/// A tile's panel, decoded by the tile_panel of another level, a part at a time that stays in the first-level cache.
inline void ordered_tile_panel(decltype(Kernels::tile_panel) decode, int bits, const uint8_t* blocks, int64_t groups,
                               uint8_t* panel) {
  constexpr int64_t kPartGroups = 32, kGroupBytes = kTileRows * kGroup;
  static_assert(kPartGroups % kStepGroups == 0);
  alignas(64) uint8_t decoded[kPartGroups * kGroupBytes];
  for (int64_t g = 0; g < groups; g += kPartGroups) {
    const int64_t now = groups - g < kPartGroups ? groups - g : kPartGroups;
    decode(bits, blocks + g * block_bytes(bits), now, decoded);
    order_panel(decoded, now, panel + g * kGroupBytes);
  }
}

using TileSums = int32_t[kTileRows][kTokenPanel];

/// out[t][r] += first[r][t] + second[r][t], `stride` from one token to the next.
inline void add_transposed(const TileSums& first, const TileSums& second, int tokens, int32_t* out, int64_t stride) {
  alignas(64) int32_t turned[kTokenPanel][kTileRows];
  for (int r = 0; r < kTileRows; r += 4)
    for (int t = 0; t < kTokenPanel; t += 4) {
      FourInts v[4];
      for (int i = 0; i < 4; ++i) v[i] = load_four(&first[r + i][t]) + load_four(&second[r + i][t]);
      transpose(v);
      for (int i = 0; i < 4; ++i) std::memcpy(&turned[t + i][r], &v[i], sizeof v[i]);
    }
  for (int t = 0; t < tokens; ++t, out += stride)
    for (int r = 0; r < kTileRows; ++r) out[r] += turned[t][r];
}

/// panel_dot for `steps` steps of kGroups groups each. All of a panel's kTokenPanel tokens are multiplied, as fewer
/// would take as long.
///
/// Tiles: constructed from a TileConfig, which holds until it is destroyed; zero(i); load(i, from, stride) and
/// store(i, to, stride) move the rows of register i, stride in bytes; dot(c, a, b): c += a * b, of the bytes of a
/// unsigned and of b signed.
template <typename Tiles, int kGroups>
void add_steps(const uint8_t* panel0, const uint8_t* panel1, int64_t steps, const int8_t* x, int tokens, int32_t* out) {
  constexpr int64_t kRowBytes = kGroups * kGroup, kTokenBytes = 4 * kTokenPanel;
  const uint8_t* const panels[kTilePair] = {panel0, panel1};
  TileSums sums[kSumTiles];
  {
    Tiles tiles(kStepConfigs[kGroups - 1]);
    unroll<kSumTiles>([&](auto i) TURBOQUANT_INLINE { tiles.zero(i); });
    const auto step = [&](int64_t s, auto chain) TURBOQUANT_INLINE {
      tiles.load(TokensTile(), x + s * kRowBytes * kTokenPanel, kTokenBytes);
      unroll<kTilePair>([&](auto i) TURBOQUANT_INLINE {
        constexpr TileNumber<WeightsTile() + i()> kWeights;
        tiles.load(kWeights, panels[i] + s * kRowBytes * kTileRows, kRowBytes);
        tiles.dot(TileNumber<kTilePair * chain() + i()>(), kWeights, TokensTile());
      });
    };
    int64_t s = 0;
    for (; s + kAmxChains <= steps; s += kAmxChains)
      unroll<kAmxChains>([&](auto chain) TURBOQUANT_INLINE { step(s + chain, chain); });
    for (; s < steps; ++s) step(s, TileNumber<0>());
    unroll<kSumTiles>([&](auto i) TURBOQUANT_INLINE { tiles.store(i, sums[i], kTokenBytes); });
  }
  static_assert(kAmxChains == 2);
  for (int i = 0; i < kTilePair; ++i)
    add_transposed(sums[i], sums[kTilePair + i], tokens, out + i * kTileRows, kTilePair * kTileRows);
}

/// Kernels::panel_dot.
template <typename Tiles>
void amx_panel_dot(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
                   int32_t* out) {
  const int64_t steps = groups / kStepGroups, whole = steps * kStepGroups;
  if (steps > 0) add_steps<Tiles, kStepGroups>(panel0, panel1, steps, x, tokens, out);
  panel0 += whole * kTileRows * kGroup;
  panel1 += whole * kTileRows * kGroup;
  x += whole * kGroup * kTokenPanel;
  switch (groups - whole) {
    case 1:
      return add_steps<Tiles, 1>(panel0, panel1, 1, x, tokens, out);
    case 2:
      return add_steps<Tiles, 2>(panel0, panel1, 1, x, tokens, out);
    case 3:
      return add_steps<Tiles, 3>(panel0, panel1, 1, x, tokens, out);
    default:
      break;
  }
}

}  // namespace
}  // namespace turboquant
