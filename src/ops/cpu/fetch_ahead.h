// Software prefetch of compressed weights.
#pragma once

#include <cstdint>

#include "quant/tile.h"

namespace turboquant {
namespace {

/// Asks for the cache lines of a block that is read 3 KB later. A loop that reads as fast as the processor's own
/// prefetchers fetch does not need it, and it would be in their way; slower loops run less far ahead, and do.
template <int kBits>
inline __attribute__((always_inline)) void fetch_ahead(const uint8_t* block) {  // GCC takes calls of it for useless
  for (int64_t i = 0; i < block_bytes(kBits); i += 64) __builtin_prefetch(block + 3072 + i, 0, 3);
}

}  // namespace
}  // namespace turboquant
