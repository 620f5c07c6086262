// QJL, the original's optional second stage (Zandieh et al. 2024, "QJL: 1-Bit Quantized JL Transform"): of the residual
// of a row, r = rotated row - decoded row, it keeps the norm and the signs of S r, S = H diag(s) another randomized
// Hadamard transform. Estimated back, r is alpha |r| S^T sign(S r) with alpha = sqrt(pi / 2) / sqrt(cols): unbiased,
// and 0.57 of the squared error that the codes leave, for one more bit a weight.
//
// Bits are packed into 32-bit words, lowest first, 1 for +1; the last word of a row is filled up with zeros.
#pragma once

#include <cstdint>

#include "quant/weight.h"

namespace turboquant {

/// 32-bit words of a row.
constexpr int64_t qjl_words(int64_t cols) { return (cols + 31) / 32; }

/// Room for the residual of a weight of Kind::grouped, and its signs: the same for all matrices of one width.
void make_qjl(Weight& weight);

/// Sets the residual of rows [begin, begin + rows), whose codes are set already. w: the rotated rows, [rows][cols].
/// Error if a norm is no fp16.
void qjl_encode_rows(Weight& weight, const float* w, int64_t begin, int64_t rows);

/// Adds the estimated residual to the decoded rows [begin, end), [end - begin][cols].
void qjl_add_rows(const Weight& weight, int64_t begin, int64_t end, float* out);

}  // namespace turboquant
