// MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 numbers of 4 bits (sign, two bits of exponent, one of mantissa)
// with one power of two of 8 bits.
#pragma once

#include <array>
#include <cstdint>

namespace turboquant {

constexpr int64_t kMxfp4Block = 32;

/// Every product of a scale and a code as BF16, which holds all of them exactly but for the ends of the range; NaN for
/// the scale 255: [scale][code].
const std::array<std::array<uint16_t, 16>, 256>& mxfp4_values();

/// Decodes `blocks` blocks of 16 bytes, the lower half of a byte first, with one scale each.
void decode_mxfp4(const uint8_t* codes, const uint8_t* scales, int64_t blocks, uint16_t* out);

}  // namespace turboquant
