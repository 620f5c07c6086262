// One entry to all quantizers: rotates the rows of a matrix and encodes them.
#pragma once

#include <cstdint>

#include "core/thread_pool.h"
#include "quant/weight.h"

namespace turboquant {

struct QuantSpec {
  enum class Method { tcq16, original, affine };

  Method method = Method::tcq16;
  int bits = 3;                     // tcq16: 2, 3, 4, or 8 for int8 rows; original: 2, 3, 4; affine: 2, 3, 4, 5, 6, 8
  int group_size = 64;              // original and affine: 32, 64, 128; tcq16 has groups of 16 and ignores it
  DType affine_dtype = DType::f16;  // type of affine's scales and biases: F16 or F32
  bool qjl = false;                 // original: with a QJL residual

  /// True if a matrix of this width can be stored: a multiple of 16 or of group_size.
  bool fits(int64_t cols) const { return cols > 0 && cols % (method == Method::tcq16 ? 16 : group_size) == 0; }
};

/// w: F32, F16 or BF16 [rows, cols] as in the checkpoint, not rotated; with a rotation (of width cols) each row becomes
/// H(signs * row) first. `pool` may be null. The memory besides the result is a few rows a thread. Throws Error for
/// bits and sizes that the method does not have; its text begins with "contains NaN" or "contains infinity" for such
/// values, so that the caller can put the tensor's name before it.
Weight quantize(const Tensor& w, const Rotation& rotation, const QuantSpec& spec, ThreadPool* pool);

/// Rows [begin, end) of w as every quantizer takes them: float [end - begin, cols], rotated. Errors as above.
void load_rows(const Tensor& w, const Rotation& rotation, int64_t begin, int64_t end, float* out);

}  // namespace turboquant
