// The randomized Hadamard rotation of inputs and weight rows: x_rot = H(signs * x).
//
// H is the orthonormal Hadamard matrix of order B = m * 2^k (m in 1, 12, 20, 28) on contiguous blocks of B elements,
// H_B = H_m (x) H_{2^k}. The order of operations in float32 is the original's (mx.hadamard_transform on a CPU): first
// the Sylvester butterfly, then H_m, then the product with float(1 / sqrt(B)); no fused multiply-adds. All processor
// levels give the same bits.
#pragma once

#include <cstdint>

#include "core/cpu.h"
#include "core/tensor.h"
#include "quant/weight.h"

namespace turboquant {

/// The largest m * 2^k, m in {1, 12, 20, 28}, that divides `width`. 1 for odd widths; Error if width < 1.
int64_t hadamard_block(int64_t width);

/// H in place on each block of `block` elements of x [width]. `block` divides `width` and is one of hadamard_block's
/// orders (Error if not).
void hadamard(float* x, int64_t width, int64_t block);
/// The inverse, H transposed (H_20 and H_28 are not symmetric).
void hadamard_inverse(float* x, int64_t width, int64_t block);

/// out = H(signs * x); both [width], the number of signs. `out` may be `x`. Error if the rotation has no signs: the
/// caller knows the width of an input that is not rotated, and copies nothing.
void rotate(const Rotation& rotation, const float* x, float* out);
/// out = signs * H^T x, the inverse.
void rotate_inverse(const Rotation& rotation, const float* x, float* out);

/// The same at a given processor level, for tests. The processor must have it.
void hadamard_at(CpuLevel level, float* x, int64_t width, int64_t block);
void hadamard_inverse_at(CpuLevel level, float* x, int64_t width, int64_t block);

/// F32 [width] of +1 and -1: -1 where random_uniform(seed, width) < 0.5, as the original makes them.
Tensor make_signs(int64_t width, uint64_t seed);
/// The rotation of an input of `width`: make_signs and hadamard_block.
Rotation make_rotation(int64_t width, uint64_t seed);

}  // namespace turboquant
