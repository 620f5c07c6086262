// What all code of the gated delta rule shares. Plain constants only, so that files compiled for one instruction set
// can include it.
#pragma once

#include <cstdint>

namespace turboquant {

/// Tokens of a chunk. Short, as a CPU wants it: the work within a chunk grows with its length, and the memory of a head
/// is read from a cache anyway. (Of 16, 32 and 64, 16 is the fastest, for prompts and token by token.)
inline constexpr int64_t kDeltaChunk = 16;

}  // namespace turboquant
