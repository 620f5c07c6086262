#include "quant/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "quant/affine.h"
#include "quant/original.h"
#include "quant/qjl.h"
#include "quant/rotation.h"
#include "quant/tcq16.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

// Rows that a thread takes at a time, whole tiles.
constexpr int64_t kChunkRows = kTileRows;

void check_finite(const float* w, int64_t first_row, int64_t rows, int64_t cols) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t bad = 0;
  for (int64_t i = 0; i < rows * cols; ++i) bad |= (std::bit_cast<uint32_t>(w[i]) & kExponent) == kExponent ? 1 : 0;
  if (bad == 0) return;
  const float* at = std::find_if(w, w + rows * cols, [](float x) { return !std::isfinite(x); });
  const int64_t i = at - w;
  throw Error((std::isnan(*at) ? "contains NaN (row " : "contains infinity (row ") +
              std::to_string(first_row + i / cols) + ", column " + std::to_string(i % cols) + ")");
}

Weight make_weight(const QuantSpec& spec, int64_t rows, int64_t cols) {
  switch (spec.method) {
    case QuantSpec::Method::tcq16:
      return make_tiled(spec.bits, rows, cols);
    case QuantSpec::Method::original:
      return make_grouped(spec.bits, spec.group_size, rows, cols);
    case QuantSpec::Method::affine:
      return make_affine(spec.bits, spec.group_size, rows, cols, spec.affine_dtype);
  }
  throw Error("unknown quantization method");
}

// Encodes rotated rows to rows [begin, begin + rows) of the weight.
void encode_rows(const QuantSpec& spec, const float* w, int64_t begin, int64_t rows, Weight& weight) {
  const int64_t cols = weight.cols;
  if (spec.method == QuantSpec::Method::tcq16) {
    uint8_t* blocks = weight.data.data<uint8_t>() + begin / kTileRows * (cols / kGroup) * block_bytes(spec.bits);
    uint16_t* scales = weight.scales.data<uint16_t>() + begin;
    if (spec.bits == 8) return int8_encode_rows(w, rows, cols, blocks, scales);
    return tcq16_encode_rows(spec.bits, w, rows, cols, blocks, scales);
  }
  uint32_t* words = weight.data.data<uint32_t>() + begin * weight.data.dim(1);
  const int64_t groups = weight.scales.dim(1);
  if (spec.method == QuantSpec::Method::original) {
    original_encode_rows(spec.bits, spec.group_size, w, rows, cols, words,
                         weight.scales.data<uint16_t>() + begin * groups);
    if (weight.qjl) qjl_encode_rows(weight, w, begin, rows);
    return;
  }
  std::vector<float> scales(static_cast<size_t>(rows * groups)), biases(scales.size());
  affine_encode_rows(spec.bits, spec.group_size, w, rows, cols, words, scales.data(), biases.data());
  set_affine_scales(weight, begin, rows, scales.data(), biases.data());
}

}  // namespace

void load_rows(const Tensor& w, const Rotation& rotation, int64_t begin, int64_t end, float* out) {
  const int64_t rows = end - begin, cols = w.dim(1);
  if (rotation && rotation.signs.elements() != cols)
    throw Error("a rotation of width " + std::to_string(rotation.signs.elements()) +
                " does not fit a matrix of width " + std::to_string(cols));
  to_float(w.rows(begin, end), out);
  check_finite(out, begin, rows, cols);
  if (!rotation) return;
  for (int64_t r = 0; r < rows; ++r) rotate(rotation, out + r * cols, out + r * cols);
  check_finite(out, begin, rows, cols);
}

Weight quantize(const Tensor& w, const Rotation& rotation, const QuantSpec& spec, ThreadPool* pool) {
  const int64_t rows = w.dim(0), cols = w.dim(1);
  Weight weight = make_weight(spec, rows, cols);
  if (spec.qjl && spec.method == QuantSpec::Method::original) make_qjl(weight);
  const auto encode_chunks = [&](int64_t first, int64_t last) {
    std::vector<float> values(static_cast<size_t>(kChunkRows * cols));
    for (int64_t begin = first * kChunkRows; begin < std::min(rows, last * kChunkRows); begin += kChunkRows) {
      const int64_t count = std::min(kChunkRows, rows - begin);
      load_rows(w, rotation, begin, begin + count, values.data());
      encode_rows(spec, values.data(), begin, count, weight);
    }
  };
  const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  if (pool != nullptr) {
    pool->parallel_for(chunks, 1, encode_chunks);
  } else {
    encode_chunks(0, chunks);
  }
  return weight;
}

}  // namespace turboquant
