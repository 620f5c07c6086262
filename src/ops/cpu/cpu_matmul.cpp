// Matrix products of the CPU backend. The unit of work is a pair of tiles, 32 rows; the pairs of all projections are
// one list, which the threads take pieces of.
#include <algorithm>

#include "core/half.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/expect.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

constexpr int64_t kUnitRows = kTilePair * kTileRows;
// Decoded weights that are multiplied with all tokens before the next columns are decoded: 32 rows of so many columns
// are 256 KB, which stay in a second-level cache.
constexpr int64_t kPanelGroups = 8192 / kGroup;

}  // namespace

struct CpuOps::Product {
  const Weight* weight;
  const float* bias;   // or null
  float* out;          // [tokens, rows]
  int64_t first_unit;  // among the units of all products
  bool tiled;
};

std::vector<Tensor> CpuOps::matmul(const Activations& x, std::span<const Projection> projections) {
  std::vector<Tensor> results;
  std::vector<Product> products;
  int64_t units = 0;
  size_t bytes = 0;
  for (const Projection& projection : projections) {
    const Weight& weight = *projection.weight;
    if (weight.cols != x.width)
      throw Error("matmul: the matrix has " + std::to_string(weight.cols) + " columns, its input has " +
                  std::to_string(x.width));
    results.push_back(arena_.allocate(DType::f32, {x.tokens, weight.rows}));
    const bool has_bias = projection.bias != nullptr && *projection.bias;
    if (has_bias) expect(*projection.bias, DType::f32, Shape{weight.rows}, "matmul", "bias");
    products.push_back({&weight, has_bias ? projection.bias->data<float>() : nullptr, results.back().data<float>(),
                        units, weight.kind == Weight::Kind::tiled && static_cast<bool>(x.q)});
    units += (weight.rows + kUnitRows - 1) / kUnitRows;
    bytes += weight.bytes();
  }
  // Pieces of some 64 KB of weights: long enough to stream, short enough that no thread waits long for another.
  const auto unit_bytes = static_cast<int64_t>(bytes) / std::max<int64_t>(units, 1) + 1;
  const int64_t grain =
      std::clamp<int64_t>((int64_t{64} << 10) / unit_bytes, 1, std::max<int64_t>(units / (2 * pool_.size()), 1));
  pool_.parallel_for(units, grain, [&](int64_t begin, int64_t end) {
    thread_local std::vector<uint8_t> panels;
    thread_local std::vector<int32_t> sums;
    thread_local std::vector<float> rows;
    size_t p = 0;
    for (int64_t unit = begin; unit < end; ++unit) {
      while (p + 1 < products.size() && products[p + 1].first_unit <= unit) ++p;
      const Product& product = products[p];
      const int64_t tile = (unit - product.first_unit) * kTilePair;
      if (!product.tiled) {
        floating(x, product, tile, rows);
      } else if (x.tokens == 1) {
        for (int64_t i = tile; i < std::min(tile + kTilePair, tile_count(product.weight->rows)); ++i)
          tiled_dot(x, product, i);
      } else {
        tiled_panels(x, product, tile, panels, sums);
      }
    }
  });
  return results;
}

void CpuOps::finish_tile(const Activations& x, const Product& product, int64_t tile, int64_t token,
                         const int32_t* sums) const {
  const Weight& weight = *product.weight;
  const float x_scale = x.scale.data<float>()[token];
  const int32_t correction = kernels_.bias * x.sum.data<int32_t>()[token];
  const int64_t first = tile * kTileRows, rows = std::min<int64_t>(kTileRows, weight.rows - first);
  const auto* scales = weight.scales.data<uint16_t>() + first;
  float* out = product.out + token * weight.rows + first;
  if (rows == kTileRows) {
    kernels_.scale_tile(sums, correction, scales, x_scale, out);
  } else {
    for (int64_t r = 0; r < rows; ++r)
      out[r] = static_cast<float>(sums[r] - correction) * (half_to_float(scales[r]) * x_scale);
  }
  if (product.bias != nullptr)
    for (int64_t r = 0; r < rows; ++r) out[r] += product.bias[first + r];
}

void CpuOps::tiled_dot(const Activations& x, const Product& product, int64_t tile) const {
  const Weight& weight = *product.weight;
  const int64_t groups = weight.cols / kGroup;
  alignas(64) int32_t sums[kTileRows];
  kernels_.tile_dot(weight.bits, weight.data.data<uint8_t>() + tile * groups * block_bytes(weight.bits), groups,
                    x.q.data<int8_t>(), sums);
  finish_tile(x, product, tile, 0, sums);
}

void CpuOps::tiled_panels(const Activations& x, const Product& product, int64_t tile, std::vector<uint8_t>& panels,
                          std::vector<int32_t>& sums) const {
  const Weight& weight = *product.weight;
  const int64_t groups = weight.cols / kGroup, tiles = tile_count(weight.rows);
  const int64_t panel_groups = std::min(groups, kPanelGroups), panel_bytes = panel_groups * kTileRows * kGroup;
  panels.resize(static_cast<size_t>(kTilePair * panel_bytes));
  sums.assign(static_cast<size_t>(x.tokens * kUnitRows), 0);
  for (int64_t g = 0; g < groups; g += panel_groups) {
    const int64_t now = std::min(panel_groups, groups - g);
    for (int64_t i = 0; i < kTilePair; ++i)  // past the last tile: its neighbour again, thrown away below
      kernels_.tile_panel(
          weight.bits,
          weight.data.data<uint8_t>() + (std::min(tile + i, tiles - 1) * groups + g) * block_bytes(weight.bits), now,
          panels.data() + i * panel_bytes);
    for (int64_t t = 0; t < x.tokens; t += kTokenPanel)
      kernels_.panel_dot(panels.data(), panels.data() + panel_bytes, now,
                         x.q.data<int8_t>() + t * x.width + g * kGroup * kTokenPanel,
                         static_cast<int>(std::min<int64_t>(kTokenPanel, x.tokens - t)), sums.data() + t * kUnitRows);
  }
  for (int64_t t = 0; t < x.tokens; ++t)
    for (int64_t i = 0; i < kTilePair && tile + i < tiles; ++i)
      finish_tile(x, product, tile + i, t, sums.data() + t * kUnitRows + i * kTileRows);
}

void CpuOps::floating(const Activations& x, const Product& product, int64_t tile, std::vector<float>& rows) const {
  const Weight& weight = *product.weight;
  const int64_t first = tile * kTileRows, count = std::min(kUnitRows, weight.rows - first);
  const float* in = x.x.data<float>();
  float* out = product.out + first;
  if (weight.kind == Weight::Kind::dense) {
    const auto* data =
        weight.data.data<std::byte>() + static_cast<size_t>(first * weight.cols) * item_size(weight.data.dtype());
    const auto dense = weight.data.dtype() == DType::f32   ? kernels_.dense_f32
                       : weight.data.dtype() == DType::f16 ? kernels_.dense_f16
                                                           : kernels_.dense_bf16;
    dense(data, count, weight.cols, in, x.tokens, out, weight.rows);
  } else {
    rows.resize(static_cast<size_t>(count * weight.cols));
    decode_rows(weight, first, first + count, rows.data());
    kernels_.dense_f32(rows.data(), count, weight.cols, in, x.tokens, out, weight.rows);
  }
  if (product.bias == nullptr) return;
  for (int64_t t = 0; t < x.tokens; ++t)
    for (int64_t r = 0; r < count; ++r) out[t * weight.rows + r] += product.bias[first + r];
}

}  // namespace turboquant
