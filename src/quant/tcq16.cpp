#include "quant/tcq16.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "core/half.h"
#include "quant/tcq16_kernel.h"
#include "quant/tile.h"

namespace turboquant {

void tcq16_search_portable(int bits, EncodeBlock& block) { search_any<PortableSimd>(bits, block); }

namespace {

// Below this the fp16 scale is 0 in any case, and the division by it may leave the range of a float.
constexpr double kTinyUnit = 1e-30;

void check_tiled_shape(int bits, int64_t rows, int64_t cols) {
  if (block_bytes(bits) == 0) throw Error("tiles of " + std::to_string(bits) + " bits do not exist: use 2, 3, 4 or 8");
  if (rows < 1 || cols < 1 || cols % kGroup != 0)
    throw Error("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) +
                " cannot be stored in tiles: the width must be a multiple of 16");
}

void check_encoder_bits(int bits) {
  if (bits != 2 && bits != 3 && bits != 4) throw Error("TCQ16 has 2, 3 or 4 bits, not " + std::to_string(bits));
}

using Tcq16Search = void (*)(int bits, EncodeBlock& block);

Tcq16Search tcq16_search_for(CpuLevel level) {
#if defined(__x86_64__)
  if (has_avx512(level)) return tcq16_search_avx512;
  if (has_avx2(level)) return tcq16_search_avx2;
#elif defined(__aarch64__)
  if (level != CpuLevel::scalar) return tcq16_search_neon;
#else
  static_cast<void>(level);
#endif
  return tcq16_search_portable;
}

// Searches the group and packs it; rows from `rows` on get code 0.
void encode_block(Tcq16Search search, int bits, EncodeBlock& block, int rows, uint8_t* packed) {
  search(bits, block);
  for (int r = rows; r < kTileRows; ++r) {
    block.index[r] = 0;
    for (int t = 0; t < kGroup; ++t) block.codes[t][r] = 0;
  }
  pack_block(bits, block.codes, block.index, packed);
}

void encode_tile(Tcq16Search search, int bits, const float* w, int rows, int64_t cols, uint8_t* blocks,
                 uint16_t* scales) {
  double scale[kTileRows] = {}, dot[kTileRows] = {}, norm[kTileRows] = {};
  float inverse[kTileRows] = {};
  for (int r = 0; r < rows; ++r) {
    scale[r] = row_unit(bits, w + r * cols, cols);
    if (scale[r] > 0) inverse[r] = static_cast<float>(1.0 / scale[r]);
  }
  EncodeBlock block{};
  for (int64_t g = 0; g < cols / kGroup; ++g, blocks += block_bytes(bits)) {
    for (int r = 0; r < rows; ++r) {
      const float* group = w + r * cols + g * kGroup;
      for (int t = 0; t < kGroup; ++t) block.x[t][r] = group[slot_weight(t)] * inverse[r];
    }
    encode_block(search, bits, block, rows, blocks);
    for (int r = 0; r < rows; ++r) {
      dot[r] += static_cast<double>(block.dot[r]);
      norm[r] += static_cast<double>(block.norm[r]);
    }
  }
  for (int r = 0; r < rows; ++r) scales[r] = row_scale(scale[r] * dot[r] / std::max(norm[r], 1e-30));
}

}  // namespace

double row_unit(int bits, const float* w, int64_t cols) {
  double unit = 0;
  if (bits == 8) {
    float largest = 0;
    for (int64_t i = 0; i < cols; ++i) largest = std::max(largest, std::fabs(w[i]));
    unit = static_cast<double>(largest) / 127;
  } else {
    double squares = 0;
    for (int64_t i = 0; i < cols; ++i) squares += static_cast<double>(w[i]) * w[i];
    unit = std::sqrt(squares / static_cast<double>(cols)) * tcq16_unit(bits);
  }
  return unit > kTinyUnit ? unit : 0;
}

uint16_t row_scale(double scale) {
  const uint16_t half = float_to_half(static_cast<float>(scale));
  if ((half & 0x7fffu) >= 0x7c00u) throw Error("contains values too large for an fp16 scale");
  return half;
}

void encode_group(int bits, const float* x, int64_t stride, int rows, uint8_t* packed, float* levels) {
  if (bits == 8) {
    int8_t q[kTileRows * kGroup] = {};
    for (int i = 0; i < kGroup; ++i)
      for (int r = 0; r < kTileRows; ++r) {
        const float level = std::nearbyint(std::clamp(x[i * stride + r], -127.0F, 127.0F));
        levels[i * stride + r] = level;
        if (r < rows) q[r * kGroup + i] = static_cast<int8_t>(level);
      }
    return pack_int8_tile(q, 1, packed);
  }
  EncodeBlock block{};
  for (int t = 0; t < kGroup; ++t)
    std::copy(x + slot_weight(t) * stride, x + slot_weight(t) * stride + kTileRows, block.x[t]);
  encode_block(tcq16_search_for(cpu_level()), bits, block, rows, packed);
  const int8_t* table = tcq16_table(bits);
  const int8_t* shift = tcq16_shift(bits);
  for (int t = 0; t < kGroup; ++t)
    for (int r = 0; r < kTileRows; ++r) {
      const int index = block.index[r], before = block.codes[(t + kGroup - 1) % kGroup][r] & 1;
      levels[slot_weight(t) * stride + r] =
          static_cast<float>(table[(index << bits) + block.codes[t][r]] + before * shift[index]);
    }
}

void tcq16_encode_rows_at(CpuLevel level, int bits, const float* w, int64_t rows, int64_t cols, uint8_t* blocks,
                          uint16_t* scales) {
  check_encoder_bits(bits);
  check_tiled_shape(bits, rows, cols);
  const int64_t tile_bytes = cols / kGroup * block_bytes(bits);
  for (int64_t begin = 0; begin < rows; begin += kTileRows) {
    const int count = static_cast<int>(std::min<int64_t>(kTileRows, rows - begin));
    encode_tile(tcq16_search_for(level), bits, w + begin * cols, count, cols, blocks + begin / kTileRows * tile_bytes,
                scales + begin);
  }
}

void tcq16_encode_rows(int bits, const float* w, int64_t rows, int64_t cols, uint8_t* blocks, uint16_t* scales) {
  tcq16_encode_rows_at(cpu_level(), bits, w, rows, cols, blocks, scales);
}

double tcq16_search(int bits, int index, const double* x, uint8_t* codes) {
  const int8_t* table = tcq16_table(bits) + (index << bits);
  const double shift = tcq16_shift(bits)[index];
  double least = std::numeric_limits<double>::infinity();

  // For each slot the best code of parity u after a state c0, and its squared error.
  double error[kGroup][2][2];
  uint8_t code[kGroup][2][2];
  for (int t = 0; t < kGroup; ++t)
    for (int c0 = 0; c0 < 2; ++c0)
      for (int u = 0; u < 2; ++u) {
        error[t][c0][u] = std::numeric_limits<double>::infinity();
        for (int k = u; k < (1 << bits); k += 2) {
          const double e = x[slot_weight(t)] - (table[k] + c0 * shift);
          if (e * e >= error[t][c0][u]) continue;
          error[t][c0][u] = e * e;
          code[t][c0][u] = static_cast<uint8_t>(k);
        }
      }

  // The state before slot 0 is u of slot 15: the path must return to where it starts.
  for (int start = 0; start < 2; ++start) {
    double cost[2];
    cost[start] = 0;
    cost[1 - start] = std::numeric_limits<double>::infinity();
    int from[kGroup][2];
    for (int t = 0; t < kGroup; ++t) {
      double next[2];
      for (int u = 0; u < 2; ++u) {
        const double cost_0 = cost[0] + error[t][0][u], cost_1 = cost[1] + error[t][1][u];
        from[t][u] = cost_1 < cost_0 ? 1 : 0;
        next[u] = std::min(cost_0, cost_1);
      }
      std::copy(next, next + 2, cost);
    }
    if (cost[start] >= least) continue;
    least = cost[start];
    for (int t = kGroup - 1, u = start; t >= 0; --t) {
      const int c0 = from[t][u];
      codes[t] = code[t][c0][u];
      u = c0;
    }
  }
  return least;
}

void tcq16_encode_rows_reference(int bits, const float* w, int64_t rows, int64_t cols, uint8_t* blocks,
                                 uint16_t* scales) {
  check_encoder_bits(bits);
  check_tiled_shape(bits, rows, cols);
  const int64_t groups = cols / kGroup;
  for (int64_t tile = 0; tile < tile_count(rows); ++tile) {
    std::vector<uint8_t> codes(static_cast<size_t>(kTileRows * cols)), index(static_cast<size_t>(kTileRows * groups));
    const int64_t begin = tile * kTileRows, end = std::min(rows, begin + kTileRows);
    uint8_t* tile_blocks = blocks + tile * groups * block_bytes(bits);
    for (int64_t row = begin; row < end; ++row) {
      const double scale = row_unit(bits, w + row * cols, cols);
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t group = (row - begin) * groups + g;
        double x[kGroup], least = std::numeric_limits<double>::infinity();
        for (int i = 0; i < kGroup; ++i)
          x[i] = scale > 0 ? static_cast<double>(w[row * cols + g * kGroup + i]) / scale : 0;
        for (int table = 0; table < 16; ++table) {
          uint8_t found[kGroup];
          const double error = tcq16_search(bits, table, x, found);
          if (error >= least) continue;
          least = error;
          std::copy(found, found + kGroup, codes.begin() + group * kGroup);
          index[static_cast<size_t>(group)] = static_cast<uint8_t>(table);
        }
      }
    }
    pack_tile(bits, codes.data(), index.data(), groups, tile_blocks);

    std::vector<int8_t> q(static_cast<size_t>(kTileRows * cols));
    unpack_tile(bits, tile_blocks, groups, q.data());
    for (int64_t row = begin; row < end; ++row) {
      double dot = 0, norm = 0;
      for (int64_t i = 0; i < cols; ++i) {
        const double level = q[static_cast<size_t>((row - begin) * cols + i)];
        dot += static_cast<double>(w[row * cols + i]) * level;
        norm += level * level;
      }
      scales[row] = row_scale(dot / std::max(norm, 1e-30));
    }
  }
}

Weight make_tiled(int bits, int64_t rows, int64_t cols) {
  check_tiled_shape(bits, rows, cols);
  Weight weight;
  weight.kind = Weight::Kind::tiled;
  weight.rows = rows;
  weight.cols = cols;
  weight.bits = bits;
  weight.group_size = kGroup;
  weight.data = Tensor::zeros(DType::u8, {tile_count(rows), cols / kGroup, block_bytes(bits)});
  weight.scales = Tensor::zeros(DType::f16, {rows});
  return weight;
}

Weight tcq16_encode(int bits, const float* w, int64_t rows, int64_t cols) {
  check_encoder_bits(bits);
  Weight weight = make_tiled(bits, rows, cols);
  tcq16_encode_rows(bits, w, rows, cols, weight.data.data<uint8_t>(), weight.scales.data<uint16_t>());
  return weight;
}

void int8_encode_rows(const float* w, int64_t rows, int64_t cols, uint8_t* blocks, uint16_t* scales) {
  check_tiled_shape(8, rows, cols);
  std::vector<int8_t> q(static_cast<size_t>(kTileRows * cols));
  for (int64_t begin = 0; begin < rows; begin += kTileRows, blocks += cols / kGroup * block_bytes(8)) {
    std::fill(q.begin(), q.end(), int8_t{0});
    for (int64_t row = begin; row < std::min(rows, begin + kTileRows); ++row) {
      const float* x = w + row * cols;
      scales[row] = row_scale(row_unit(8, x, cols));
      const float scale = half_to_float(scales[row]);
      if (scale == 0) continue;
      int8_t* out = q.data() + (row - begin) * cols;
      for (int64_t i = 0; i < cols; ++i)
        out[i] = static_cast<int8_t>(std::nearbyint(std::clamp(x[i] / scale, -127.0F, 127.0F)));
    }
    pack_int8_tile(q.data(), cols / kGroup, blocks);
  }
}

Weight int8_encode(const float* w, int64_t rows, int64_t cols) {
  Weight weight = make_tiled(8, rows, cols);
  int8_encode_rows(w, rows, cols, weight.data.data<uint8_t>(), weight.scales.data<uint16_t>());
  return weight;
}

}  // namespace turboquant
