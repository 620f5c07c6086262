#include "quant/kv.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/half.h"
#include "quant/kv_kernel.h"
#include "quant/rotation.h"
#include "turboquant/error.h"

namespace turboquant {

void kv_search_portable(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes) {
  kv_search_any<PortableSimd>(bits, dim, table, lanes);
}

namespace {

// Levels in units of the root mean square, optimized for the normal distribution (Lloyd's algorithm around the
// trellis).
constexpr double kLevels2[8] = {-1.873600, -1.060633, -0.633304, -0.170832, 0.174522, 0.632140, 1.058928, 1.865826};
constexpr double kLevels3[16] = {-2.501465, -1.796187, -1.356924, -1.040046, -0.782373, -0.535650, -0.326708, -0.099499,
                                 0.093469,  0.320076,  0.527938,  0.775322,  1.029243,  1.345514,  1.774773,  2.471468};
constexpr double kLevels4[32] = {-3.139904, -2.514846, -2.112358, -1.813191, -1.576653, -1.380994, -1.217359, -1.059235,
                                 -0.921322, -0.779022, -0.657397, -0.526215, -0.413238, -0.285436, -0.176747, -0.055255,
                                 0.053105,  0.175359,  0.286418,  0.410842,  0.526369,  0.658409,  0.780068,  0.923202,
                                 1.062957,  1.226137,  1.397288,  1.598567,  1.836915,  2.142405,  2.538993,  3.164790};

// The largest magnitude becomes 127.
constexpr double unit_of(const double* levels, int count) {
  const double low = -levels[0], high = levels[count - 1];
  return (low > high ? low : high) / 127;
}

template <int bits>
constexpr std::array<int8_t, size_t{2} << bits> rounded(const double* levels) {
  std::array<int8_t, size_t{2} << bits> table{};
  const double unit = unit_of(levels, 2 << bits);
  for (size_t i = 0; i < table.size(); ++i) {
    const double x = levels[i] / unit;
    // NOLINTNEXTLINE(bugprone-incorrect-roundings): std::lround cannot run at compile time
    table[i] = static_cast<int8_t>(x < 0 ? -static_cast<int>(0.5 - x) : static_cast<int>(x + 0.5));
  }
  return table;
}

alignas(64) constexpr auto kRounded2 = rounded<2>(kLevels2);
alignas(64) constexpr auto kRounded3 = rounded<3>(kLevels3);
alignas(64) constexpr auto kRounded4 = rounded<4>(kLevels4);

KvTable make_search_table(int bits) {
  KvTable table{};
  for (int i = 0; i < (2 << bits); ++i) {
    const float level = static_cast<float>(kv_levels(bits)[i]) * kv_unit(bits);
    table.level[i / 4][i % 4] = level;
    table.penalty[i / 4][i % 4] = -0.5F * level * level;
  }
  return table;
}

void check(int bits, int64_t dim) {
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
    throw Error("a compressed KV cache has 2, 3, 4 or 8 bits, not " + std::to_string(bits));
  check_kv_heads(dim);
}

// The low bits of 64 bytes, as a word.
uint64_t low_bits(const uint8_t* bytes) {
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) {
    uint64_t eight = 0;
    std::memcpy(&eight, bytes + 8 * i, 8);
    word |= ((eight & 0x0101010101010101) * 0x0102040810204080 >> 56) << (8 * i);
  }
  return word;
}

// Writes the planes of vector v. The plain plane must be zero before.
void pack_vector(int bits, const uint8_t* codes, int64_t v, int64_t dim, uint8_t* out) {
  if (bits >= 3) {
    uint8_t* plain = out + v / 4 * 64;
    const auto shift = static_cast<int>(2 * (v % 4));
    for (int i = 0; i < 64; ++i) plain[i] = static_cast<uint8_t>(plain[i] | (codes[i] >> 1 & 3) << shift);
  }
  if (bits != 3) {
    uint8_t top[64];
    for (int i = 0; i < 64; ++i) top[i] = static_cast<uint8_t>(codes[i] >> (bits - 1));
    const uint64_t word = low_bits(top);
    std::memcpy(out + kv_top_offset(bits, dim) + 8 * v, &word, 8);
  }
  const uint64_t word = low_bits(codes);
  std::memcpy(out + kv_trellis_offset(bits, dim) + 8 * v, &word, 8);
}

// Codes of 16 tokens, from the token 16 * group on.
void pack_lanes(KvSide side, int bits, const KvEncodeLanes& lanes, int64_t group, int64_t dim, uint8_t* out) {
  uint8_t codes[64];
  if (side == KvSide::keys) {
    const int64_t vectors = dim / 4;
    for (int64_t j = 0; j < vectors; ++j) {
      for (int p = 0; p < 4; ++p)
        for (int r = 0; r < 16; ++r) codes[4 * r + p] = lanes.codes[p * vectors + j][r];
      pack_vector(bits, codes, group * vectors + j, dim, out);
    }
    return;
  }
  const int64_t tiles = dim / 16;
  for (int64_t c = 0; c < tiles; ++c)
    for (int q = 0; q < 4; ++q) {
      for (int r = 0; r < 16; ++r) std::memcpy(codes + 4 * r, lanes.codes[r * tiles + c] + 4 * q, 4);
      pack_vector(bits, codes, c * 16 + 4 * group + q, dim, out);
    }
}

double root_mean_square(const float* x, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  return std::sqrt(squares / static_cast<double>(n));
}

void encode_int8(KvSide side, const float* x, int64_t dim, uint8_t* out, uint16_t* scales) {
  for (int64_t token = 0; token < kKvBlockTokens; ++token, x += dim) {
    float largest = 0;
    for (int64_t i = 0; i < dim; ++i) largest = std::max(largest, std::fabs(x[i]));
    scales[token] = float_to_half(largest);
    const float scale = half_to_float(scales[token]), inverse = scale > 0 ? 127.0F / scale : 0.0F;
    for (int64_t i = 0; i < dim; ++i) {
      const KvPlace place = kv_place(side, dim, token, i);
      const float q = std::nearbyint(std::clamp(x[i] * inverse, -127.0F, 127.0F));
      out[64 * place.vector + place.byte] = static_cast<uint8_t>(static_cast<int8_t>(q));
    }
  }
}

using KvSearch = void (*)(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes);

KvSearch kv_search_for(CpuLevel level) {
#if defined(__x86_64__)
  if (has_avx512(level)) return kv_search_avx512;
  if (has_avx2(level)) return kv_search_avx2;
#elif defined(__aarch64__)
  if (level != CpuLevel::scalar) return kv_search_neon;
#else
  static_cast<void>(level);
#endif
  return kv_search_portable;
}

}  // namespace

std::string to_string(const KvBits& bits) {
  if (!bits.compressed()) return "fp16";
  if (bits.keys == bits.values) return std::to_string(bits.keys);
  return "k" + std::to_string(bits.keys) + "v" + std::to_string(bits.values);
}

KvBits parse_kv_bits(const std::string& text) {
  const auto known = [](char c) { return c == '2' || c == '3' || c == '4' || c == '8'; };
  if (text == "fp16" || text == "16") return {};
  if (text.size() == 1 && known(text[0])) return {text[0] - '0', text[0] - '0'};
  if (text.size() == 4 && text[0] == 'k' && known(text[1]) && text[2] == 'v' && known(text[3]))
    return {text[1] - '0', text[3] - '0'};
  throw UsageError("--kv-bits " + text + ": use fp16, 2, 3, 4 or 8, or keys and values apart as in k4v3");
}

void check_kv_heads(int64_t head_dim) {
  if (!kv_compressible(head_dim))
    throw Error("attention heads of " + std::to_string(head_dim) +
                " cannot be compressed: head_dim must be a multiple of 16, at most " + std::to_string(kKvMaxHeadDim));
}

KvCode make_kv_code(KvBits bits, int64_t head_dim) {
  check(bits.keys, head_dim);
  check(bits.values, head_dim);
  constexpr uint64_t kKeySeed = 42, kValueSeed = 43;  // part of the format
  return {bits, make_rotation(head_dim, kKeySeed), make_rotation(head_dim, kValueSeed)};
}

const int8_t* kv_levels(int bits) {
  return bits == 2 ? kRounded2.data() : bits == 3 ? kRounded3.data() : kRounded4.data();
}

float kv_unit(int bits) {
  constexpr double kUnits[3] = {unit_of(kLevels2, 8), unit_of(kLevels3, 16), unit_of(kLevels4, 32)};
  return static_cast<float>(bits == 8 ? 1.0 / 127 : kUnits[bits - 2]);
}

const KvTable& kv_search_table(int bits) {
  static const KvTable tables[3] = {make_search_table(2), make_search_table(3), make_search_table(4)};
  return tables[bits - 2];
}

void kv_encode_at(CpuLevel level, KvSide side, int bits, const float* x, int64_t dim, uint8_t* out) {
  check(bits, dim);
  uint16_t scales[kKvBlockTokens];
  if (bits == 8) {
    encode_int8(side, x, dim, out, scales);
  } else {
    std::fill(out, out + kv_scales_offset(bits, dim), uint8_t{0});
    const KvTable& table = kv_search_table(bits);
    const KvSearch search = kv_search_for(level);
    KvEncodeLanes lanes;
    for (int64_t group = 0; group < kKvBlockTokens / kKvLanes; ++group) {
      double rms[kKvLanes];
      for (int64_t r = 0; r < kKvLanes; ++r) {
        const float* vector = x + (group * kKvLanes + r) * dim;
        rms[r] = root_mean_square(vector, dim);
        const float inverse = rms[r] > 1e-30 ? static_cast<float>(1 / rms[r]) : 0.0F;
        for (int64_t i = 0; i < dim; ++i) lanes.x[kv_slot(side, dim, i)][r] = vector[i] * inverse;
      }
      search(bits, dim, table, lanes);
      pack_lanes(side, bits, lanes, group, dim, out);
      for (int64_t r = 0; r < kKvLanes; ++r)
        scales[group * kKvLanes + r] = float_to_half(
            static_cast<float>(rms[r] * std::max(0.0, static_cast<double>(lanes.dot[r] / lanes.norm[r]))));
    }
  }
  std::memcpy(out + kv_scales_offset(bits, dim), scales, sizeof scales);
}

void kv_encode(KvSide side, int bits, const float* x, int64_t dim, uint8_t* out) {
  kv_encode_at(cpu_level(), side, bits, x, dim, out);
}

void kv_unpack(KvSide side, int bits, const uint8_t* in, int64_t dim, int8_t* out) {
  const auto bit = [&](int64_t offset, const KvPlace& place) {
    return in[offset + 8 * place.vector + place.byte / 8] >> (place.byte % 8) & 1;
  };
  std::vector<int> plain(static_cast<size_t>(dim)), u(static_cast<size_t>(dim));  // by slot
  for (int64_t token = 0; token < kKvBlockTokens; ++token, out += dim) {
    for (int64_t i = 0; i < dim; ++i) {
      const KvPlace place = kv_place(side, dim, token, i);
      if (bits == 8) {
        out[i] = static_cast<int8_t>(in[64 * place.vector + place.byte]);
        continue;
      }
      const auto slot = static_cast<size_t>(kv_slot(side, dim, i));
      u[slot] = bit(kv_trellis_offset(bits, dim), place);
      plain[slot] = bits >= 3 ? in[place.vector / 4 * 64 + place.byte] >> (2 * (place.vector % 4)) & 3 : 0;
      if (bits != 3) plain[slot] |= bit(kv_top_offset(bits, dim), place) << (bits - 2);
    }
    if (bits == 8) continue;
    for (int64_t i = 0; i < dim; ++i) {
      const int64_t t = kv_slot(side, dim, i);
      const auto at = [&](int64_t slot) { return u[static_cast<size_t>((slot + dim) % dim)]; };
      out[i] = kv_levels(bits)[plain[static_cast<size_t>(t)] << 2 | (at(t) ^ at(t - 2)) << 1 | at(t - 1)];
    }
  }
}

void kv_decode(KvSide side, int bits, const uint8_t* in, int64_t dim, float* out) {
  check(bits, dim);
  std::vector<int8_t> integers(static_cast<size_t>(kKvBlockTokens * dim));
  kv_unpack(side, bits, in, dim, integers.data());
  uint16_t scales[kKvBlockTokens];
  std::memcpy(scales, in + kv_scales_offset(bits, dim), sizeof scales);
  for (int64_t i = 0; i < kKvBlockTokens * dim; ++i)
    out[i] = half_to_float(scales[i / dim]) * kv_unit(bits) * static_cast<float>(integers[static_cast<size_t>(i)]);
}

double kv_search(int bits, const double* x, int64_t dim, uint8_t* codes) {
  const auto n = static_cast<size_t>(dim);
  // For each slot and set of levels the best plain bits, and their squared error.
  std::vector<std::array<double, 4>> error(n);
  std::vector<std::array<int, 4>> best_plain(n), from(n);
  for (size_t t = 0; t < n; ++t)
    for (int set = 0; set < 4; ++set) {
      const auto at = static_cast<size_t>(set);
      error[t][at] = std::numeric_limits<double>::infinity();
      for (int plain = 0; plain < 1 << (bits - 1); ++plain) {
        const double e = x[t] - static_cast<double>(kv_unit(bits)) * kv_levels(bits)[4 * plain + set];
        if (e * e >= error[t][at]) continue;
        error[t][at] = e * e;
        best_plain[t][at] = plain;
      }
    }
  double least = std::numeric_limits<double>::infinity();
  for (size_t start = 0; start < 4; ++start) {
    std::array<double, 4> cost;
    cost.fill(std::numeric_limits<double>::infinity());
    cost[start] = 0;
    for (size_t t = 0; t < n; ++t) {
      std::array<double, 4> next{};
      for (size_t s = 0; s < 4; ++s) {
        const size_t u = s & 1, c0 = s >> 1;
        const double a = cost[c0] + error[t][u << 1 | c0], b = cost[c0 + 2] + error[t][(u ^ 1) << 1 | c0];
        from[t][s] = b < a ? 1 : 0;
        next[s] = std::min(a, b);
      }
      cost = next;
    }
    if (cost[start] >= least) continue;
    least = cost[start];
    size_t s = start;
    for (size_t t = n; t-- > 0;) {
      const size_t u = s & 1, c0 = s >> 1, o = static_cast<size_t>(from[t][s]);
      codes[t] = static_cast<uint8_t>(best_plain[t][(u ^ o) << 1 | c0] << 1 | static_cast<int>(u));
      s = c0 + 2 * o;
    }
  }
  return least;
}

}  // namespace turboquant
