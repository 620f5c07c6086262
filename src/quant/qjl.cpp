#include "quant/qjl.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

constexpr uint64_t kSeed = 137;  // of the signs, in every file

float round_to_half(float x) { return half_to_float(float_to_half(x)); }

}  // namespace

void make_qjl(Weight& weight) {
  weight.qjl.bits = Tensor::zeros(DType::u32, {weight.rows, qjl_words(weight.cols)});
  weight.qjl.norms = Tensor::zeros(DType::f16, {weight.rows});
  // +1 where make_signs has -1.
  weight.qjl.rotation = make_rotation(weight.cols, kSeed);
  float* signs = weight.qjl.rotation.signs.data<float>();
  for (int64_t i = 0; i < weight.cols; ++i) signs[i] = -signs[i];
}

void qjl_encode_rows(Weight& weight, const float* w, int64_t begin, int64_t rows) {
  const int64_t cols = weight.cols;
  Weight codes = weight;  // the same memory, without the residual
  codes.qjl = {};
  std::vector<float> residual(static_cast<size_t>(cols));
  for (int64_t row = begin; row < begin + rows; ++row, w += cols) {
    decode_rows(codes, row, row + 1, residual.data());
    float squares = 0;
    for (int64_t i = 0; i < cols; ++i) {
      float& r = residual[static_cast<size_t>(i)];
      r = w[i] - round_to_half(r);  // the original decodes to fp16
      squares += r * r;
    }
    const uint16_t norm = float_to_half(std::sqrt(squares));
    if (norm >= 0x7c00u) throw Error("contains values too large for the fp16 norm of a QJL residual");
    weight.qjl.norms.data<uint16_t>()[row] = norm;
    rotate(weight.qjl.rotation, residual.data(), residual.data());
    uint32_t* words = weight.qjl.bits.data<uint32_t>() + row * qjl_words(cols);
    for (int64_t i = 0; i < cols; ++i) words[i / 32] |= (residual[static_cast<size_t>(i)] >= 0 ? 1u : 0u) << (i % 32);
  }
}

void qjl_add_rows(const Weight& weight, int64_t begin, int64_t end, float* out) {
  const int64_t cols = weight.cols;
  const auto alpha =
      round_to_half(static_cast<float>(std::sqrt(std::numbers::pi / 2) / std::sqrt(static_cast<double>(cols))));
  std::vector<float> residual(static_cast<size_t>(cols));
  for (int64_t row = begin; row < end; ++row, out += cols) {
    const uint32_t* words = weight.qjl.bits.data<uint32_t>() + row * qjl_words(cols);
    const float size = alpha * half_to_float(weight.qjl.norms.data<uint16_t>()[row]);
    const float values[2] = {-size, size};  // looked up, not chosen: no branch to guess wrong half of the time
    float* to = residual.data();
    for (int64_t left = cols; left > 0; left -= 32, ++words)
      for (int64_t i = 0; i < std::min<int64_t>(left, 32); ++i) *to++ = values[*words >> i & 1u];
    rotate_inverse(weight.qjl.rotation, residual.data(), residual.data());
    for (int64_t i = 0; i < cols; ++i) out[i] += residual[static_cast<size_t>(i)];
  }
}

}  // namespace turboquant
