// A weight matrix as it lies in memory, dense or compressed, and the rotation of the input that it is multiplied with.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace turboquant {

/// The rotation x_rot = H(signs * x) that belongs to an input and to every matrix that reads it. H is the orthonormal
/// Hadamard matrix of order `block`, applied to equal blocks of the width. Without signs there is no rotation.
struct Rotation {
  Tensor signs;       // F32 [width], +1 or -1
  int64_t block = 0;  // hadamard_block(width)

  explicit operator bool() const { return static_cast<bool>(signs); }
};

/// What the original adds to a grouped matrix on request (quant/qjl.h): one bit for each element of what the codes
/// leave of a row, in a basis of its own.
struct QjlResidual {
  Tensor bits;        // U32 [rows, words]
  Tensor norms;       // F16 [rows]
  Rotation rotation;  // of the rotated input once more

  explicit operator bool() const { return static_cast<bool>(bits); }
};

/// y = x W^T, W of `rows` outputs by `cols` inputs.
struct Weight {
  enum class Kind {
    dense,    // data: F32, F16 or BF16 [rows, cols]
    tiled,    // TCQ16 (bits 2, 3, 4) or int8 rows (bits 8) in tiles of 16 rows (quant/tile.h);
              // data: U8 [tiles, cols / 16, block bytes], scales: F16 [rows]
    grouped,  // the original's format (quant/original.h); data: U32 [rows, words], scales: F16 [rows, cols /
              // group_size], codebook: F16 [2^bits]
    affine,   // MLX's affine quantization (quant/affine.h); data: U32 [rows, words],
              // scales and biases: F32, F16 or BF16 [rows, cols / group_size]
    mxfp4,    // MXFP4 as MLX packs it (core/mxfp4.h); data: U32 [rows, cols / 8], scales: U8 [rows, cols / 32]
  };

  Kind kind = Kind::dense;
  int64_t rows = 0, cols = 0;
  int bits = 16;
  int group_size = 0;
  Tensor data, scales, codebook, biases;
  QjlResidual qjl;  // of a grouped one, or empty
  Tensor repacked;  // a tiled one's blocks in the order that a backend multiplies fastest (Ops::repack), or empty

  /// Bytes that one product reads.
  size_t bytes() const {
    return data.bytes() + scales.bytes() + codebook.bytes() + biases.bytes() + qjl.bits.bytes() + qjl.norms.bytes();
  }
};

/// Rows [begin, end) as floats [end - begin, cols], in the basis that they are stored in (rotated where the input is).
/// The exact value of every kind; the readable reference for all kernels. `begin` and `end` are any rows.
void decode_rows(const Weight& weight, int64_t begin, int64_t end, float* out);

}  // namespace turboquant
