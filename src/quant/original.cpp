#include "quant/original.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/half.h"

namespace turboquant {
namespace {

// The positive half of the Lloyd-Max codebook of the standard normal distribution: centroids, and the boundaries
// between them (0 is one, too). The boundaries are the original's own and not exactly the midpoints.
struct HalfCodebook {
  float centroids[8];
  float boundaries[7];
};

constexpr HalfCodebook kHalf2{{0.4527799975F, 1.5104174569F}, {0.9815987272F}};
constexpr HalfCodebook kHalf3{{0.2450941497F, 0.7560051861F, 1.3439090860F, 2.1519452850F},
                              {0.5005496679F, 1.0499571360F, 1.7479271855F}};
constexpr HalfCodebook kHalf4{
    {0.1285059463F, 0.3883729570F, 0.6572738605F, 0.9430078288F, 1.2570025732F, 1.6188648437F, 2.0698191883F,
     2.7332986608F},
    {0.2584394517F, 0.5228234087F, 0.8001408446F, 1.1000052010F, 1.4379337084F, 1.8443420160F, 2.4015589245F}};

const HalfCodebook& half_codebook(int bits) {
  if (bits == 2) return kHalf2;
  if (bits == 3) return kHalf3;
  if (bits == 4) return kHalf4;
  throw Error("the original's format has 2, 3 or 4 bits, not " + std::to_string(bits));
}

void check_original_shape(int bits, int64_t group_size, int64_t rows, int64_t cols) {
  half_codebook(bits);
  if (group_size != 32 && group_size != 64 && group_size != 128)
    throw Error("the original's format has groups of 32, 64 or 128, not " + std::to_string(group_size));
  if (rows < 1 || cols < 1 || cols % group_size != 0)
    throw Error("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) +
                " cannot be stored in groups: the width must be a multiple of " + std::to_string(group_size));
}

// RMS of a group; the order of the float32 operations decides codes at the boundaries.
float group_rms(const float* x, int64_t group_size) {
  float squares = 0;
  for (int64_t i = 0; i < group_size; ++i) squares += x[i] * x[i];
  return std::max(std::sqrt(squares * (1.0F / static_cast<float>(group_size))), 1e-7F);
}

}  // namespace

Tensor original_codebook(int bits) {
  const HalfCodebook& half = half_codebook(bits);
  const int count = 1 << bits;
  Tensor codebook = Tensor::zeros(DType::f16, {count});
  for (int i = 0; i < count / 2; ++i) {
    codebook.data<uint16_t>()[count / 2 + i] = float_to_half(half.centroids[i]);
    codebook.data<uint16_t>()[count / 2 - 1 - i] = float_to_half(-half.centroids[i]);
  }
  return codebook;
}

void original_encode_rows(int bits, int64_t group_size, const float* w, int64_t rows, int64_t cols, uint32_t* words,
                          uint16_t* scales) {
  if (group_size < 1 || group_size > 128 || cols % group_size != 0) check_original_shape(bits, group_size, rows, cols);
  const HalfCodebook& half = half_codebook(bits);
  const int count = (1 << bits) - 1, positive = count / 2;
  float boundaries[15] = {};
  for (int i = 0; i < positive; ++i) {
    boundaries[positive + 1 + i] = half.boundaries[i];
    boundaries[positive - 1 - i] = -half.boundaries[i];
  }
  const int per_word = original_codes_per_word(bits);
  const int64_t row_words = original_words(bits, cols);
  for (int64_t row = 0; row < rows; ++row, w += cols, words += row_words) {
    std::fill(words, words + row_words, 0u);
    for (int64_t begin = 0; begin < cols; begin += group_size) {
      const float rms = group_rms(w + begin, group_size);
      *scales = float_to_half(rms);
      if (*scales++ >= 0x7c00u) throw Error("contains values too large for an fp16 scale");
      int32_t codes[128] = {};
      for (int64_t i = 0; i < group_size; ++i) {
        const float x = w[begin + i] / rms;
        for (int b = 0; b < count; ++b) codes[i] += x >= boundaries[b] ? 1 : 0;
      }
      for (int64_t i = 0; i < group_size; ++i)
        words[(begin + i) / per_word] |= static_cast<uint32_t>(codes[i]) << (bits * ((begin + i) % per_word));
    }
  }
}

Weight make_grouped(int bits, int64_t group_size, int64_t rows, int64_t cols) {
  check_original_shape(bits, group_size, rows, cols);
  Weight weight;
  weight.kind = Weight::Kind::grouped;
  weight.rows = rows;
  weight.cols = cols;
  weight.bits = bits;
  weight.group_size = static_cast<int>(group_size);
  weight.data = Tensor::zeros(DType::u32, {rows, original_words(bits, cols)});
  weight.scales = Tensor::zeros(DType::f16, {rows, cols / group_size});
  weight.codebook = original_codebook(bits);
  return weight;
}

Weight original_encode(int bits, int64_t group_size, const float* w, int64_t rows, int64_t cols) {
  Weight weight = make_grouped(bits, group_size, rows, cols);
  original_encode_rows(bits, group_size, w, rows, cols, weight.data.data<uint32_t>(), weight.scales.data<uint16_t>());
  return weight;
}

}  // namespace turboquant
