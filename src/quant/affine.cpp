#include "quant/affine.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/half.h"

namespace turboquant {
namespace {

void check_affine_shape(int bits, int64_t group_size, int64_t rows, int64_t cols) {
  if (bits < 2 || bits > 8 || bits == 7)
    throw Error("affine quantization has 2, 3, 4, 5, 6 or 8 bits, not " + std::to_string(bits));
  if (group_size != 32 && group_size != 64 && group_size != 128)
    throw Error("affine quantization has groups of 32, 64 or 128, not " + std::to_string(group_size));
  if (rows < 1 || cols < 1 || cols % group_size != 0)
    throw Error("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) +
                " cannot be quantized in groups: the width must be a multiple of " + std::to_string(group_size));
}

struct Range {
  float scale, bias;
};

Range group_range(const float* w, int64_t group_size, float top_code) {
  const auto [low, high] = std::minmax_element(w, w + group_size);
  float scale = std::max((*high - *low) / top_code, 1e-7F);
  const bool low_side = std::fabs(*low) > std::fabs(*high);
  if (!low_side) scale = -scale;
  const float edge = low_side ? *low : *high;
  const float steps = std::nearbyint(edge / scale);
  if (steps == 0) return {scale, 0};
  return {edge / steps, edge};
}

void store(Tensor& tensor, int64_t at, float value) {
  if (tensor.dtype() == DType::f32) {
    tensor.data<float>()[at] = value;
    return;
  }
  const uint16_t half = float_to_half(value);
  if ((half & 0x7fffu) >= 0x7c00u) throw Error("contains values too large for an fp16 scale");
  tensor.data<uint16_t>()[at] = half;
}

}  // namespace

void affine_encode_rows(int bits, int64_t group_size, const float* w, int64_t rows, int64_t cols, uint32_t* words,
                        float* scales, float* biases) {
  check_affine_shape(bits, group_size, rows, cols);
  const auto top_code = static_cast<float>((1 << bits) - 1);
  const int64_t row_words = affine_words(bits, cols);
  for (int64_t row = 0; row < rows; ++row, words += row_words) {
    uint32_t* out = words;
    uint64_t pending = 0;  // bits that do not fill a word yet
    int filled = 0;
    for (int64_t group = 0; group < cols / group_size; ++group, w += group_size) {
      const Range range = group_range(w, group_size, top_code);
      *scales++ = range.scale;
      *biases++ = range.bias;
      for (int64_t i = 0; i < group_size; ++i) {
        const float code = std::clamp(std::nearbyint((w[i] - range.bias) / range.scale), 0.0F, top_code);
        pending |= uint64_t{static_cast<uint32_t>(code)} << filled;
        filled += bits;
        if (filled < 32) continue;
        *out++ = static_cast<uint32_t>(pending);
        pending >>= 32;
        filled -= 32;
      }
    }
  }
}

Weight make_affine(int bits, int64_t group_size, int64_t rows, int64_t cols, DType scale_dtype) {
  check_affine_shape(bits, group_size, rows, cols);
  if (scale_dtype != DType::f16 && scale_dtype != DType::f32)
    throw Error("affine scales are stored as F16 or F32, not " + std::string(name(scale_dtype)));
  Weight weight;
  weight.kind = Weight::Kind::affine;
  weight.rows = rows;
  weight.cols = cols;
  weight.bits = bits;
  weight.group_size = static_cast<int>(group_size);
  weight.data = Tensor::zeros(DType::u32, {rows, affine_words(bits, cols)});
  weight.scales = Tensor::zeros(scale_dtype, {rows, cols / group_size});
  weight.biases = Tensor::zeros(scale_dtype, {rows, cols / group_size});
  return weight;
}

void set_affine_scales(Weight& weight, int64_t begin, int64_t rows, const float* scales, const float* biases) {
  const int64_t groups = weight.cols / weight.group_size;
  for (int64_t i = 0; i < rows * groups; ++i) {
    store(weight.scales, begin * groups + i, scales[i]);
    store(weight.biases, begin * groups + i, biases[i]);
  }
}

Weight affine_encode(int bits, int64_t group_size, const float* w, int64_t rows, int64_t cols, DType scale_dtype) {
  Weight weight = make_affine(bits, group_size, rows, cols, scale_dtype);
  const auto count = static_cast<size_t>(rows * (cols / group_size));
  std::vector<float> scales(count), biases(count);
  affine_encode_rows(bits, group_size, w, rows, cols, weight.data.data<uint32_t>(), scales.data(), biases.data());
  set_affine_scales(weight, 0, rows, scales.data(), biases.data());
  return weight;
}

}  // namespace turboquant
