// Tensor types of GGUF files: how their blocks are laid out, and how they become floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/dtype.h"

namespace turboquant {

/// The supported types, with the numbers that GGUF gives them.
enum class GgufType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  bf16 = 30,
  mxfp4 = 39,
};

/// A row is a whole number of blocks, each of `elements` values in `bytes` bytes.
struct GgufBlock {
  int64_t elements;
  size_t bytes;
};

/// The type of a number in a file, or nothing if it is not supported.
std::optional<GgufType> gguf_type(uint32_t number);
/// The name of any type number, for errors: "Q4_1", "IQ4_XS", "type 99".
std::string gguf_type_name(uint32_t number);
std::string_view name(GgufType type);
GgufBlock block_of(GgufType type);
/// What a checkpoint gives out: F32, F16 and BF16 as they are, blocks as F16.
DType dtype_of(GgufType type);

/// `n` values, a multiple of the block's elements, as floats. `blocks` needs no alignment. The operations and their
/// order are those of the gguf Python package, so the floats are the same bit for bit.
void dequantize(GgufType type, const std::byte* blocks, int64_t n, float* out);
/// The same, every float rounded once to half precision.
void dequantize_to_half(GgufType type, const std::byte* blocks, int64_t n, uint16_t* out);

}  // namespace turboquant
