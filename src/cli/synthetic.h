// Models with random weights of real shapes, made in memory: for speed, not for text.
#pragma once

#include <memory>
#include <string>

#include "core/thread_pool.h"
#include "io/checkpoint.h"

namespace turboquant {

/// `shape`: a name of known_config() (models/shapes.h). Linear layers have `bits` (2, 3, 4), embedding and head
/// `head_bits` (2, 3, 4, 8, or 16 for F16). UsageError for anything else.
std::unique_ptr<Checkpoint> make_synthetic(const std::string& shape, int bits, int head_bits, ThreadPool& pool);

}  // namespace turboquant
