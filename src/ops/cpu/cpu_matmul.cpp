// Matrix products of the CPU backend. The unit of work is a pair of tiles, 32 rows; the pairs of all projections are
// one list, which the threads take pieces of.
#include <algorithm>
#include <cstring>

#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/expect.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

constexpr int64_t kUnitRows = kTilePair * kTileRows;
// Decoded weights that are multiplied with all tokens before the next columns are decoded: 32 rows of so many columns
// are 256 KB, which stay in a second-level cache.
constexpr int64_t kPanelGroups = 8192 / kGroup;
// With few tokens, so many pairs of tiles are multiplied with a part of the input before the next part: the weights
// stream through the first-level cache, and would push out an input that is longer than this many bytes.
constexpr int64_t kSharedUnits = 2, kInputBytes = 4096;

}  // namespace

struct CpuOps::Work {
  const Activations* x;
  const Weight* weight;
  const float* bias;   // or null
  float* out;          // [tokens, rows]
  int64_t first_unit;  // among the units of all products
  bool tiled;
};

void CpuOps::repack(const Weight& weight, Tensor out) {
  if (!repacks() || weight.kind != Weight::Kind::tiled || weight.bits > 4)
    throw Error("repack: this backend has no order of its own for the matrix");
  expect(out, DType::u8, weight.data.shape(), "repack", "out");
  const int64_t groups = weight.cols / kGroup, tile_bytes = groups * block_bytes(weight.bits);
  pool_.parallel_for(tile_count(weight.rows), 1, [&](int64_t begin, int64_t end) {
    kernels_.repack(weight.bits, weight.data.data<uint8_t>() + begin * tile_bytes, (end - begin) * groups,
                    out.data<uint8_t>() + begin * tile_bytes);
  });
}

std::vector<Tensor> CpuOps::matmul(const Activations& x, std::span<const Projection> projections) {
  std::vector<Product> products;
  for (const Projection& projection : projections) products.push_back({&x, projection, {}});
  return matmul_each(products);
}

std::vector<Tensor> CpuOps::matmul_each(std::span<const Product> products) {
  std::vector<Tensor> results;
  std::vector<Work> list;
  int64_t units = 0;
  size_t bytes = 0;
  for (const Product& product : products) {
    const Weight& weight = *product.projection.weight;
    const Activations& x = *product.x;
    if (weight.cols != x.width)
      throw Error("matmul: the matrix has " + std::to_string(weight.cols) + " columns, its input has " +
                  std::to_string(x.width));
    if (product.out) expect(product.out, DType::f32, Shape{x.tokens, weight.rows}, "matmul", "out");
    results.push_back(product.out ? product.out : arena_.allocate(DType::f32, {x.tokens, weight.rows}));
    const Tensor* bias = product.projection.bias;
    const bool has_bias = bias != nullptr && *bias;
    if (has_bias) expect(*bias, DType::f32, Shape{weight.rows}, "matmul", "bias");
    const bool tiled = weight.kind == Weight::Kind::tiled && static_cast<bool>(x.q);
    if (!tiled && !x.x) throw Error("matmul: this matrix wants floating-point activations, and is given int8 alone");
    list.push_back({&x, &weight, has_bias ? bias->data<float>() : nullptr, results.back().data<float>(), units, tiled});
    units += (weight.rows + kUnitRows - 1) / kUnitRows;
    bytes += weight.bytes();
  }
  if (observer_ && !observer_(products)) {
    for (Tensor& result : results) std::memset(result.data<std::byte>(), 0, result.bytes());
    return results;
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
    for (int64_t unit = begin, next = 0; unit < end; unit = next) {
      while (p + 1 < list.size() && list[p + 1].first_unit <= unit) ++p;
      const Work& work = list[p];
      const int64_t tile = (unit - work.first_unit) * kTilePair, tiles = tile_count(work.weight->rows);
      next = unit + 1;
      if (!work.tiled) {
        floating(work, tile, rows);
      } else if (work.x->tokens <= kernels_.shared_tokens) {
        next = std::min({unit + kSharedUnits, end, work.first_unit + (tiles + kTilePair - 1) / kTilePair});
        tiled_dots(work, tile, std::min((next - work.first_unit) * kTilePair, tiles));
      } else {
        tiled_panels(work, tile, panels, sums);
      }
    }
  });
  return results;
}

void CpuOps::finish_tile(const Work& work, int64_t tile, const int32_t* sums, int64_t sums_stride) const {
  const Weight& weight = *work.weight;
  const Activations& x = *work.x;
  const int64_t first = tile * kTileRows, rows = std::min<int64_t>(kTileRows, weight.rows - first);
  ScaleTile result{sums,
                   sums_stride,
                   x.tokens,
                   kernels_.bias,
                   x.sum.data<int32_t>(),
                   weight.scales.data<uint16_t>() + first,
                   x.scale.data<float>(),
                   work.bias == nullptr ? nullptr : work.bias + first,
                   work.out + first,
                   weight.rows};
  if (rows == kTileRows) {
    kernels_.scale_tile(result);
    return;
  }
  // The last tile is padded: what its scales and biases would be is not there.
  uint16_t scales[kTileRows] = {};
  float offsets[kTileRows] = {};
  std::copy(result.scales, result.scales + rows, scales);
  if (result.offsets != nullptr) std::copy(result.offsets, result.offsets + rows, offsets);
  float out[kTileRows];
  for (int64_t t = 0; t < x.tokens; ++t) {
    kernels_.scale_tile({sums + t * sums_stride, 0, 1, result.bias, result.x_sums + t, scales, result.x_scales + t,
                         result.offsets == nullptr ? nullptr : offsets, out, 0});
    std::copy(out, out + rows, result.out + t * weight.rows);
  }
}

void CpuOps::tiled_dots(const Work& work, int64_t begin, int64_t end) const {
  const Weight& weight = *work.weight;
  const Activations& x = *work.x;
  const int64_t groups = weight.cols / kGroup;
  const int64_t group_bytes = kGroup * (x.tokens == 1 ? 1 : kTokenPanel);  // of x
  const int64_t part = kInputBytes / group_bytes;
  const auto count = static_cast<size_t>(x.tokens * kTileRows);
  const uint8_t* tiles = (weight.repacked ? weight.repacked : weight.data).data<uint8_t>();
  const auto tile_dot = weight.repacked ? kernels_.tile_dot_repacked : kernels_.tile_dot;
  alignas(64) int32_t sums[kSharedUnits * kTilePair][kTokenPanel * kTileRows];
  for (int64_t g = 0; g < groups; g += part) {
    const int64_t now = std::min(part, groups - g);
    const int8_t* q = x.q.data<int8_t>() + g * group_bytes;
    for (int64_t tile = begin; tile < end; ++tile) {
      const uint8_t* blocks = tiles + (tile * groups + g) * block_bytes(weight.bits);
      alignas(64) int32_t part_sums[kTokenPanel * kTileRows];
      int32_t* const out = g == 0 ? sums[tile - begin] : part_sums;
      if (x.tokens == 1)
        tile_dot(weight.bits, blocks, now, q, out);
      else
        kernels_.tile_dots(weight.bits, blocks, now, q, static_cast<int>(x.tokens), out);
      if (g == 0) continue;
      for (size_t i = 0; i < count; ++i) sums[tile - begin][i] += part_sums[i];
    }
  }
  for (int64_t tile = begin; tile < end; ++tile) finish_tile(work, tile, sums[tile - begin], kTileRows);
}

void CpuOps::tiled_panels(const Work& work, int64_t tile, std::vector<uint8_t>& panels,
                          std::vector<int32_t>& sums) const {
  const Weight& weight = *work.weight;
  const Activations& x = *work.x;
  const int64_t groups = weight.cols / kGroup, tiles = tile_count(weight.rows);
  const int64_t panel_groups = std::min(groups, kPanelGroups), panel_bytes = panel_groups * kTileRows * kGroup;
  const uint8_t* blocks = (weight.repacked ? weight.repacked : weight.data).data<uint8_t>();
  const auto tile_panel = weight.repacked ? kernels_.tile_panel_repacked : kernels_.tile_panel;
  panels.resize(static_cast<size_t>(kTilePair * panel_bytes));
  sums.assign(static_cast<size_t>(x.tokens * kUnitRows), 0);
  for (int64_t g = 0; g < groups; g += panel_groups) {
    const int64_t now = std::min(panel_groups, groups - g);
    for (int64_t i = 0; i < kTilePair; ++i)  // past the last tile: its neighbour again, thrown away below
      tile_panel(weight.bits, blocks + (std::min(tile + i, tiles - 1) * groups + g) * block_bytes(weight.bits), now,
                 panels.data() + i * panel_bytes);
    for (int64_t t = 0; t < x.tokens; t += kTokenPanel)
      kernels_.panel_dot(panels.data(), panels.data() + panel_bytes, now,
                         x.q.data<int8_t>() + t * x.width + g * kGroup * kTokenPanel,
                         static_cast<int>(std::min<int64_t>(kTokenPanel, x.tokens - t)), sums.data() + t * kUnitRows);
  }
  for (int64_t i = 0; i < kTilePair && tile + i < tiles; ++i)
    finish_tile(work, tile + i, sums.data() + i * kTileRows, kUnitRows);
}

void CpuOps::floating(const Work& work, int64_t tile, std::vector<float>& rows) const {
  const Weight& weight = *work.weight;
  const Activations& x = *work.x;
  const int64_t first = tile * kTileRows, count = std::min(kUnitRows, weight.rows - first);
  const float* in = x.x.data<float>();
  float* out = work.out + first;
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
  if (work.bias == nullptr) return;
  for (int64_t t = 0; t < x.tokens; ++t)
    for (int64_t r = 0; r < count; ++r) out[t * weight.rows + r] += work.bias[first + r];
}

}  // namespace turboquant
