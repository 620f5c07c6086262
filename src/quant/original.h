// The weight format of the original, turboquant-mlx 0.1.1, bit for bit: groups of 32, 64 or 128 rotated weights with an
// fp16 RMS scale and a symmetric Lloyd-Max codebook of the normal distribution.
//
// Codes are packed into 32-bit words, lowest bits first, 32 / bits codes a word (10 at 3 bits, whose two top bits stay
// zero); a word never crosses rows, but at 3 bits it crosses groups. A weight is centroid[code] * scale, both fp16.
#pragma once

#include <cstdint>

#include "quant/weight.h"

namespace turboquant {

constexpr int original_codes_per_word(int bits) { return 32 / bits; }
/// 32-bit words of a row.
constexpr int64_t original_words(int bits, int64_t cols) {
  return (cols + original_codes_per_word(bits) - 1) / original_codes_per_word(bits);
}

/// The centroids, F16 [2^bits], ascending. bits: 2, 3, 4 (Error if not).
Tensor original_codebook(int bits);

/// Encodes rotated rows on the calling thread. w: [rows][cols], finite, cols a multiple of group_size (32, 64, 128; of
/// KV caches also 8 and 16);
/// words: [rows][original_words]; scales: fp16 [rows][cols / group_size]. Error for other sizes.
void original_encode_rows(int bits, int64_t group_size, const float* w, int64_t rows, int64_t cols, uint32_t* words,
                          uint16_t* scales);

/// The same rows as a Weight of Kind::grouped.
Weight original_encode(int bits, int64_t group_size, const float* w, int64_t rows, int64_t cols);

/// Memory for a Weight of Kind::grouped, zeroed but for its codebook. Error for sizes that the format does not have.
Weight make_grouped(int bits, int64_t group_size, int64_t rows, int64_t cols);

}  // namespace turboquant
