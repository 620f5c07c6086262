// Copies of a model's matrices as the backend multiplies them fastest, made when it is loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "core/memory.h"
#include "core/progress.h"
#include "io/checkpoint.h"
#include "ops/ops.h"

namespace turboquant {

class Repacking {
 public:
  /// None are made where the backend would not be faster, or where they would take more than half of the memory that is
  /// available: pages of a file can be dropped, copies cannot.
  Repacking(const Checkpoint& checkpoint, Ops& ops, uint64_t available = machine_memory().available);

  /// Weight::repacked of a matrix of the checkpoint, each at most once, or empty; under a progress bar, Ctrl-C unwinds.
  Tensor of(const Weight& weight);

 private:
  Ops& ops_;
  std::shared_ptr<std::byte> memory_;  // of all copies, in large pages; null: there are none
  size_t bytes_ = 0, used_ = 0;
  std::optional<Progress> progress_;
};

}  // namespace turboquant
