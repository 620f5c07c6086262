// The KV cache of the original, turboquant-mlx 0.1.1, bit for bit: each vector of a head is rotated and coded as a row
// of weights is (quant/original.h), in groups of 64 or what of it divides head_dim.
#pragma once

#include <cstdint>

#include "quant/kv.h"
#include "quant/weight.h"

namespace turboquant {

/// The group size of a head_dim: `group_size` halved until it divides. Error if that is below 8.
int64_t original_kv_group(int64_t head_dim, int64_t group_size = 64);

/// The rotation of all keys or of all values; `seed` is the original's, 42.
Rotation original_kv_rotation(KvSide side, int64_t head_dim, uint64_t seed = 42);

/// Encodes vectors x F32 [n][head_dim], as they are: words [n][original_words(bits, head_dim)], scales fp16
/// [n][head_dim / group].
void original_kv_encode(int bits, int64_t group, const Rotation& rotation, const float* x, int64_t n, uint32_t* words,
                        uint16_t* scales);
/// What attention reads: F16 [n][head_dim].
void original_kv_decode(int bits, int64_t group, const Rotation& rotation, const uint32_t* words,
                        const uint16_t* scales, int64_t n, uint16_t* out);

}  // namespace turboquant
