// MLX's affine quantization (mx.quantize, mode "affine"): groups along the row, w = scale * q + bias. Not rotated; here
// for comparison and for files that use it.
//
// The bias is the end of the group's range that is larger in size, moved so that zero is a code. Codes are a contiguous
// stream of bits, lowest first, in little-endian 32-bit words; a row is a whole number of words.
#pragma once

#include <cstdint>

#include "quant/weight.h"

namespace turboquant {

/// 32-bit words of a row; cols is a multiple of 32.
constexpr int64_t affine_words(int bits, int64_t cols) { return cols * bits / 32; }

/// Encodes rows on the calling thread. w: [rows][cols], finite; bits: 2, 3, 4, 5, 6, 8; group_size: 32, 64, 128, cols a
/// multiple of it; scales and biases: [rows][cols / group_size], not rounded (the codes belong to unrounded ones, as in
/// MLX). Error for other sizes.
void affine_encode_rows(int bits, int64_t group_size, const float* w, int64_t rows, int64_t cols, uint32_t* words,
                        float* scales, float* biases);

/// The same rows as a Weight of Kind::affine; scales and biases are stored as F16 or F32.
Weight affine_encode(int bits, int64_t group_size, const float* w, int64_t rows, int64_t cols,
                     DType scale_dtype = DType::f16);

/// Memory for a Weight of Kind::affine, zeroed. Error for sizes and types that the format does not have.
Weight make_affine(int bits, int64_t group_size, int64_t rows, int64_t cols, DType scale_dtype = DType::f16);

/// Stores rows of scales and biases [rows, groups] from `begin` on, rounded to the weight's type.
void set_affine_scales(Weight& weight, int64_t begin, int64_t rows, const float* scales, const float* biases);

}  // namespace turboquant
