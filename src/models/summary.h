// What a checkpoint holds, from its headers alone: weights and bytes by role and storage.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "io/checkpoint.h"
#include "nn/roles.h"

namespace turboquant {

/// Weights as the original model counts them, and the bytes that store them: codes, scales, biases, codebooks.
struct Share {
  uint64_t tensors = 0, weights = 0, bytes = 0;

  double bits_per_weight() const {
    return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
  }
};

struct Summary {
  std::map<std::pair<Role, std::string>, Share>
      matrices;   // by role and storage: "TCQ16 3 bits", "int8 rows", "F16", ...
  Share linear;   // of all linear layers, without the signs that they share
  Share experts;  // of them, those of routed experts
  Share all;      // everything in the file; tensors counts matrices
};

Summary summarize(const Checkpoint& checkpoint);

}  // namespace turboquant
