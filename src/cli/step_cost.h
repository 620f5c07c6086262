// What a decoding step reads and multiplies, by the checkpoint's tensors.
#pragma once

#include <map>

#include "io/checkpoint.h"
#include "models/model.h"
#include "ops/profile.h"

namespace turboquant {

struct StepCost {
  /// Of linear layers, of experts those that a token is sent to; and of the head.
  double linear_bytes = 0, head_bytes = 0;
  /// Of the linear layers, for one token.
  double multiply_adds = 0;

  double bytes() const { return linear_bytes + head_bytes; }
  /// What an operation of a class reads a token. `kv_bytes`: of the cache.
  std::map<OpClass, double> by_class(double kv_bytes) const {
    return {{OpClass::products, linear_bytes}, {OpClass::head, head_bytes}, {OpClass::attention, kv_bytes}};
  }
};

StepCost step_cost(const Checkpoint& checkpoint, bool tied_head);

}  // namespace turboquant
