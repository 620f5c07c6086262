#include "quant/weight.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/mxfp4.h"
#include "quant/affine.h"
#include "quant/original.h"
#include "quant/qjl.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

float element(const Tensor& tensor, int64_t at) {
  if (tensor.dtype() == DType::f32) return tensor.data<float>()[at];
  const uint16_t bits = tensor.data<uint16_t>()[at];
  return tensor.dtype() == DType::bf16 ? bfloat_to_float(bits) : half_to_float(bits);
}

void decode_tiled(const Weight& weight, int64_t begin, int64_t end, float* out) {
  const int64_t groups = weight.cols / kGroup, tile_bytes = groups * block_bytes(weight.bits);
  std::vector<int8_t> q(static_cast<size_t>(kTileRows * weight.cols));
  while (begin < end) {
    const int64_t tile = begin / kTileRows, tile_end = std::min(end, (tile + 1) * kTileRows);
    unpack_rows(weight.bits, weight.data.data<uint8_t>() + tile * tile_bytes, groups,
                static_cast<int>(begin - tile * kTileRows), static_cast<int>(tile_end - tile * kTileRows), q.data());
    for (const int8_t* row = q.data(); begin < tile_end; ++begin, row += weight.cols) {
      const float scale = element(weight.scales, begin);
      for (int64_t i = 0; i < weight.cols; ++i) *out++ = static_cast<float>(row[i]) * scale;
    }
  }
}

// centroid * scale: the product of two halves is exact in float32. The bits are a constant, so that no index is
// divided.
template <int kBits>
void decode_grouped_bits(const Weight& weight, int64_t begin, int64_t end, float* out) {
  constexpr int64_t kPerWord = original_codes_per_word(kBits);
  constexpr uint32_t kMask = (1u << kBits) - 1;
  const int64_t cols = weight.cols, groups = cols / weight.group_size;
  const uint32_t* words = weight.data.data<uint32_t>() + begin * original_words(kBits, cols);
  float centroids[1 << kBits];
  for (int i = 0; i < (1 << kBits); ++i) centroids[i] = element(weight.codebook, i);
  for (int64_t row = begin; row < end; ++row) {
    float* to = out;
    for (int64_t left = cols; left > 0; left -= kPerWord, ++words)
      if (left >= kPerWord) {
        for (int i = 0; i < kPerWord; ++i) *to++ = centroids[*words >> (kBits * i) & kMask];
      } else {
        for (int i = 0; i < left; ++i) *to++ = centroids[*words >> (kBits * i) & kMask];
      }
    for (int64_t group = 0; group < groups; ++group, out += weight.group_size) {
      const float scale = element(weight.scales, row * groups + group);
      for (int64_t i = 0; i < weight.group_size; ++i) out[i] *= scale;
    }
  }
}

void decode_grouped(const Weight& weight, int64_t begin, int64_t end, float* out) {
  if (weight.bits == 2) return decode_grouped_bits<2>(weight, begin, end, out);
  if (weight.bits == 3) return decode_grouped_bits<3>(weight, begin, end, out);
  decode_grouped_bits<4>(weight, begin, end, out);
}

void decode_affine(const Weight& weight, int64_t begin, int64_t end, float* out) {
  const int64_t row_words = affine_words(weight.bits, weight.cols), groups = weight.cols / weight.group_size;
  const uint64_t mask = (uint64_t{1} << weight.bits) - 1;
  for (int64_t row = begin; row < end; ++row) {
    const uint32_t* word = weight.data.data<uint32_t>() + row * row_words;
    uint64_t pending = 0;  // bits that are read and not decoded yet
    int filled = 0;
    for (int64_t group = row * groups; group < (row + 1) * groups; ++group) {
      const float scale = element(weight.scales, group), bias = element(weight.biases, group);
      for (int i = 0; i < weight.group_size; ++i) {
        if (filled < weight.bits) {
          pending |= uint64_t{*word++} << filled;
          filled += 32;
        }
        *out++ = scale * static_cast<float>(pending & mask) + bias;
        pending >>= weight.bits;
        filled -= weight.bits;
      }
    }
  }
}

void decode_mxfp4_rows(const Weight& weight, int64_t begin, int64_t end, float* out) {
  const int64_t blocks = weight.cols / kMxfp4Block;
  std::vector<uint16_t> row(static_cast<size_t>(weight.cols));
  for (int64_t r = begin; r < end; ++r) {
    decode_mxfp4(weight.data.data<uint8_t>() + r * weight.cols / 2, weight.scales.data<uint8_t>() + r * blocks, blocks,
                 row.data());
    out = std::transform(row.begin(), row.end(), out, bfloat_to_float);
  }
}

}  // namespace

void decode_rows(const Weight& weight, int64_t begin, int64_t end, float* out) {
  if (begin < 0 || end < begin || end > weight.rows)
    throw Error("rows " + std::to_string(begin) + " to " + std::to_string(end) + " of a matrix of " +
                std::to_string(weight.rows) + " rows do not exist");
  switch (weight.kind) {
    case Weight::Kind::dense:
      return to_float(weight.data.rows(begin, end), out);
    case Weight::Kind::tiled:
      return decode_tiled(weight, begin, end, out);
    case Weight::Kind::grouped:
      decode_grouped(weight, begin, end, out);
      if (weight.qjl) qjl_add_rows(weight, begin, end, out);
      return;
    case Weight::Kind::affine:
      return decode_affine(weight, begin, end, out);
    case Weight::Kind::mxfp4:
      return decode_mxfp4_rows(weight, begin, end, out);
  }
}

}  // namespace turboquant
