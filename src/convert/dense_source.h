// MLX's quantized checkpoints as sources of a conversion.
#pragma once

#include <memory>

#include "io/checkpoint.h"

namespace turboquant {

/// A checkpoint whose matrices are dense, made from one that MLX quantized (affine or MXFP4): read() decodes a matrix
/// to the type of its scales (MXFP4: BF16, exactly), and config() says nothing of a quantization any more. Any other
/// checkpoint comes back as it is. Error: config.json and shapes contradict each other; the tensor is named.
std::unique_ptr<Checkpoint> dense_source(std::unique_ptr<Checkpoint> source);

}  // namespace turboquant
