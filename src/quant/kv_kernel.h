// The search of the KV cache's encoder as a template over the vectors of quant/simd.h, and its compiled versions. The
// lanes of a vector are tokens. Maximizes the gain x * l - l * l / 2 instead of minimizing (x - l)^2 / 2.
#pragma once

#include <cstdint>

#include "quant/kv.h"
#include "quant/simd.h"

namespace turboquant {

constexpr int kKvLanes = 16;

/// One head's vectors of 16 tokens, and what the search finds.
struct KvEncodeLanes {
  alignas(64) float x[kKvMaxHeadDim][kKvLanes];        // in: by slot, in units of the root mean square
  alignas(64) uint8_t codes[kKvMaxHeadDim][kKvLanes];  // out
  alignas(64) float dot[kKvLanes];                     // sum of x * level
  alignas(64) float norm[kKvLanes];                    // sum of level * level
};

/// The levels in those units: [plain][set], set = (c1 << 1) | c0, padded for lookups of 16.
struct KvTable {
  alignas(64) float level[8][16];
  float penalty[8][4];  // -l * l / 2
};
const KvTable& kv_search_table(int bits);

void kv_search_portable(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes);
void kv_search_avx2(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes);
void kv_search_avx512(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes);
void kv_search_neon(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes);

namespace {

// The state before slot t is u[t-1] + 2 u[t-2], and after it u[t] + 2 u[t-1]: a state s is reached from its c0 = s >> 1
// and an o = 0, 1 by c0 + 2 o, over the levels of c1 = (s & 1) ^ o and c0.
template <class Simd, int bits>
void kv_search_part(int64_t dim, const KvTable& table, KvEncodeLanes& lanes, int lane) {
  using Float = typename Simd::Float;
  using Int = typename Simd::Int;
  using Mask = typename Simd::Mask;
  constexpr int kPlain = 1 << (bits - 1);
  Mask chosen[kKvMaxHeadDim][4][4];  // [t][start][state]: whether o = 1 was the better one
  Float gain[4][4];                  // [start][state]
  for (int start = 0; start < 4; ++start)
    for (int s = 0; s < 4; ++s) gain[start][s] = Simd::set(s == start ? 0.0F : -1e30F);
  for (int64_t t = 0; t < dim; ++t) {
    const Float x = Simd::load(lanes.x[t] + lane);
    Float step[4];
    for (int set = 0; set < 4; ++set) {
      step[set] = Simd::multiply_add(x, Simd::set(table.level[0][set]), Simd::set(table.penalty[0][set]));
      for (int plain = 1; plain < kPlain; ++plain)
        step[set] = Simd::max(
            step[set], Simd::multiply_add(x, Simd::set(table.level[plain][set]), Simd::set(table.penalty[plain][set])));
    }
    for (int start = 0; start < 4; ++start) {
      Float next[4];
      for (int s = 0; s < 4; ++s) {
        const int u = s & 1, c0 = s >> 1;
        const Float a = Simd::add(gain[start][c0], step[(u << 1) | c0]);
        const Float b = Simd::add(gain[start][c0 + 2], step[((u ^ 1) << 1) | c0]);
        chosen[t][start][s] = Simd::greater(b, a);
        next[s] = Simd::max(a, b);
      }
      for (int s = 0; s < 4; ++s) gain[start][s] = next[s];
    }
  }

  // The path must end in the state that it starts from. A mask each for the two bits of the best start.
  const Mask high_1 = Simd::greater(gain[1][1], gain[0][0]), high_3 = Simd::greater(gain[3][3], gain[2][2]);
  const Mask start_high = Simd::greater(Simd::max(gain[2][2], gain[3][3]), Simd::max(gain[0][0], gain[1][1]));
  const Mask start_low = Simd::select_mask(start_high, high_3, high_1);
  Mask u = start_low, c0 = start_high;
  Float dot = Simd::set(0), norm = Simd::set(0);
  for (int64_t t = dim - 1; t >= 0; --t) {
    Mask by_state[4];
    for (int s = 0; s < 4; ++s)
      by_state[s] = Simd::select_mask(start_high, Simd::select_mask(start_low, chosen[t][3][s], chosen[t][2][s]),
                                      Simd::select_mask(start_low, chosen[t][1][s], chosen[t][0][s]));
    const Mask o = Simd::select_mask(c0, Simd::select_mask(u, by_state[3], by_state[2]),
                                     Simd::select_mask(u, by_state[1], by_state[0]));
    const Mask c1 = Simd::exclusive_or(u, o);
    const Int set = Simd::or_masked(Simd::or_masked(Simd::set_int(0), c0, Simd::set_int(1)), c1, Simd::set_int(2));
    const Float x = Simd::load(lanes.x[t] + lane);
    Float best = Simd::set(-1e30F), best_level = Simd::set(0);
    Int code = Simd::set_int(0);
    for (int plain = 0; plain < kPlain; ++plain) {
      const Float l = Simd::lookup16(table.level[plain], set);
      const Float g = Simd::mul(Simd::sub(Simd::add(x, x), l), l);  // twice the gain
      const Mask better = Simd::greater(g, best);
      best = Simd::max(best, g);
      best_level = Simd::select(better, l, best_level);
      code = Simd::select_int(better, Simd::set_int(2 * plain), code);
    }
    Simd::store_bytes(lanes.codes[t] + lane, Simd::or_masked(code, u, Simd::set_int(1)));
    dot = Simd::multiply_add(x, best_level, dot);
    norm = Simd::multiply_add(best_level, best_level, norm);
    u = c0;
    c0 = o;
  }
  Simd::store(lanes.dot + lane, dot);
  Simd::store(lanes.norm + lane, norm);
}

template <class Simd>
void kv_search_any(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes) {
  for (int lane = 0; lane < kKvLanes; lane += Simd::kWidth) {
    if (bits == 2) kv_search_part<Simd, 2>(dim, table, lanes, lane);
    if (bits == 3) kv_search_part<Simd, 3>(dim, table, lanes, lane);
    if (bits == 4) kv_search_part<Simd, 4>(dim, table, lanes, lane);
  }
  Simd::finish();
}

}  // namespace
}  // namespace turboquant
