// The fast encoder as a template over the vectors of quant/simd.h, and its compiled versions. The lanes of a vector are
// rows of the tile, so that 4, 8 or 16 groups are searched side by side. Maximizes the gain x * l - l * l / 2 instead
// of minimizing (x - l)^2 / 2: one fused multiply-add a level.
#pragma once

#include <cstdint>

#include "quant/simd.h"
#include "quant/tile.h"

namespace turboquant {

/// The 16 weights of 16 rows, and what the search finds.
struct EncodeBlock {
  alignas(64) float x[kGroup][kTileRows];        // in: by slot, rows side by side, in table units
  alignas(64) uint8_t codes[kGroup][kTileRows];  // out
  alignas(64) uint8_t index[kTileRows];
  alignas(64) float dot[kTileRows];   // sum of x * level
  alignas(64) float norm[kTileRows];  // sum of level * level
};

void tcq16_search_portable(int bits, EncodeBlock& block);
void tcq16_search_avx2(int bits, EncodeBlock& block);
void tcq16_search_avx512(int bits, EncodeBlock& block);
void tcq16_search_neon(int bits, EncodeBlock& block);

namespace {

// The levels of all tables as floats, arranged for the search. Level l = table + c0 * shift.
template <int bits>
struct Levels {
  static constexpr int kCodes = 1 << bits;
  float level[16][2][kCodes];    // [index][c0][k]
  float penalty[16][2][kCodes];  // -l * l / 2
  float table[kCodes][16];       // [k][index]
  float shift[16];

  constexpr Levels() : level(), penalty(), table(), shift() {
    for (int index = 0; index < 16; ++index) {
      shift[index] = tcq16_shift(bits)[index];
      for (int k = 0; k < kCodes; ++k) {
        table[k][index] = tcq16_table(bits)[index * kCodes + k];
        for (int c0 = 0; c0 < 2; ++c0) {
          const float l = table[k][index] + static_cast<float>(c0) * shift[index];
          level[index][c0][k] = l;
          penalty[index][c0][k] = -0.5F * l * l;
        }
      }
    }
  }
};

template <int bits>
inline constexpr Levels<bits> kLevels{};

// The largest gain over the plain bits for the codes of parity u. level, penalty: [2^bits], vectors or numbers.
template <class Simd, int bits>
inline typename Simd::Float best_gain(typename Simd::Float x, const typename Simd::Float* level,
                                      const typename Simd::Float* penalty, int u) {
  typename Simd::Float gain = Simd::multiply_add(x, level[u], penalty[u]);
  for (int k = 2; k < (1 << bits); k += 2) gain = Simd::max(gain, Simd::multiply_add(x, level[k + u], penalty[k + u]));
  return gain;
}

// The gain of the best path through the trellis: gain[start][u] is that of the best path from state `start` (the u of
// the last slot) that now is in state u. If Record, chosen[t][start][u] tells the lanes where c0 = 1 was the better
// one.
template <class Simd, int bits, bool Record>
inline typename Simd::Float search_trellis(const EncodeBlock& block, int lane,
                                           const typename Simd::Float (&level)[2][1 << bits],
                                           const typename Simd::Float (&penalty)[2][1 << bits],
                                           typename Simd::Mask (*chosen)[2][2], typename Simd::Mask* start_1) {
  using Float = typename Simd::Float;
  Float gain[2][2];
  for (int t = 0; t < kGroup; ++t) {
    const Float x = Simd::load(block.x[t] + lane);
    Float step[2][2];  // [c0][u]
    for (int c0 = 0; c0 < 2; ++c0)
      for (int u = 0; u < 2; ++u) step[c0][u] = best_gain<Simd, bits>(x, level[c0], penalty[c0], u);
    if (t == 0) {
      for (int start = 0; start < 2; ++start)
        for (int u = 0; u < 2; ++u) gain[start][u] = step[start][u];
      continue;
    }
    for (int start = 0; start < 2; ++start) {
      const Float from_0 = gain[start][0], from_1 = gain[start][1];
      for (int u = 0; u < 2; ++u) {
        const Float a = Simd::add(from_0, step[0][u]), b = Simd::add(from_1, step[1][u]);
        gain[start][u] = Simd::max(a, b);
        if constexpr (Record) chosen[t][start][u] = Simd::greater(b, a);
      }
    }
  }
  if constexpr (Record) *start_1 = Simd::greater(gain[1][1], gain[0][0]);
  return Simd::max(gain[0][0], gain[1][1]);
}

// Pass 1: the best table of each lane.
template <class Simd, int bits>
inline typename Simd::Int search_tables(const EncodeBlock& block, int lane) {
  using Float = typename Simd::Float;
  const Levels<bits>& all = kLevels<bits>;
  Float best = Simd::set(-1e30F);
  typename Simd::Int best_index = Simd::set_int(0);
  for (int index = 0; index < 16; ++index) {
    Float level[2][1 << bits], penalty[2][1 << bits];
    for (int c0 = 0; c0 < 2; ++c0)
      for (int k = 0; k < (1 << bits); ++k) {
        level[c0][k] = Simd::set(all.level[index][c0][k]);
        penalty[c0][k] = Simd::set(all.penalty[index][c0][k]);
      }
    const Float gain = search_trellis<Simd, bits, false>(block, lane, level, penalty, nullptr, nullptr);
    const typename Simd::Mask better = Simd::greater(gain, best);
    best = Simd::select(better, gain, best);
    best_index = Simd::select_int(better, Simd::set_int(index), best_index);
  }
  return best_index;
}

// Pass 2: the best codes with each lane's own table.
template <class Simd, int bits>
inline void search_codes(EncodeBlock& block, int lane, typename Simd::Int index) {
  using Float = typename Simd::Float;
  using Int = typename Simd::Int;
  using Mask = typename Simd::Mask;
  constexpr int kCodes = 1 << bits;
  const Levels<bits>& all = kLevels<bits>;
  Float level[2][kCodes], penalty[2][kCodes];
  const Float shift = Simd::lookup16(all.shift, index), minus_half = Simd::set(-0.5F);
  for (int k = 0; k < kCodes; ++k) {
    level[0][k] = Simd::lookup16(all.table[k], index);
    level[1][k] = Simd::add(level[0][k], shift);
    for (int c0 = 0; c0 < 2; ++c0) penalty[c0][k] = Simd::mul(Simd::mul(minus_half, level[c0][k]), level[c0][k]);
  }
  Mask chosen[kGroup][2][2], start_1;
  search_trellis<Simd, bits, true>(block, lane, level, penalty, chosen, &start_1);

  // Back along the best path; the plain bits are found again where it passes.
  Mask state = start_1;
  Float dot = Simd::set(0), norm = Simd::set(0);
  for (int t = kGroup - 1; t >= 0; --t) {
    const Mask before = t == 0 ? start_1
                               : Simd::select_mask(start_1, Simd::select_mask(state, chosen[t][1][1], chosen[t][1][0]),
                                                   Simd::select_mask(state, chosen[t][0][1], chosen[t][0][0]));
    const Float x = Simd::load(block.x[t] + lane);
    const Float x_table = Simd::select(before, Simd::sub(x, shift), x);
    Float best = Simd::set(-1e30F), best_level = best;
    Int code = Simd::set_int(0);
    for (int plain = 0; plain < kCodes / 2; ++plain) {
      const Float l = Simd::select(state, level[0][2 * plain + 1], level[0][2 * plain]);
      const Float h = Simd::select(state, penalty[0][2 * plain + 1], penalty[0][2 * plain]);
      const Float gain = Simd::multiply_add(x_table, l, h);
      const Mask better = Simd::greater(gain, best);
      best = Simd::max(gain, best);
      best_level = Simd::select(better, l, best_level);
      code = Simd::select_int(better, Simd::set_int(2 * plain), code);
    }
    code = Simd::or_masked(code, state, Simd::set_int(1));
    Simd::store_bytes(block.codes[t] + lane, code);
    best_level = Simd::select(before, Simd::add(best_level, shift), best_level);
    dot = Simd::multiply_add(x, best_level, dot);
    norm = Simd::multiply_add(best_level, best_level, norm);
    state = before;
  }
  Simd::store(block.dot + lane, dot);
  Simd::store(block.norm + lane, norm);
  Simd::store_bytes(block.index + lane, index);
}

template <class Simd, int bits>
void search_block(EncodeBlock& block) {
  for (int lane = 0; lane < kTileRows; lane += Simd::kWidth)
    search_codes<Simd, bits>(block, lane, search_tables<Simd, bits>(block, lane));
}

template <class Simd>
void search_any(int bits, EncodeBlock& block) {
  if (bits == 2) search_block<Simd, 2>(block);
  if (bits == 3) search_block<Simd, 3>(block);
  if (bits == 4) search_block<Simd, 4>(block);
  Simd::finish();
}

}  // namespace
}  // namespace turboquant
