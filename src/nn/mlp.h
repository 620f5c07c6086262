// The gated feed-forward block: down(silu(gate(x)) * up(x)).
#pragma once

#include "nn/linear.h"

namespace turboquant {

struct Mlp {
  Linear gate, up, down;

  /// Reads MODULE.gate_proj, up_proj, down_proj, with their biases if they have any.
  static Mlp load(Loader& loader, const std::string& module, int64_t hidden_size, int64_t intermediate_size) {
    return {loader.linear(module + ".gate_proj", intermediate_size, hidden_size),
            loader.linear(module + ".up_proj", intermediate_size, hidden_size),
            loader.linear(module + ".down_proj", hidden_size, intermediate_size)};
  }

  /// x F32 [tokens, hidden_size] -> the same shape.
  Tensor forward(Ops& ops, const Tensor& x, bool exact) const {
    const std::vector<Tensor> inner = project(ops, x, {&gate, &up}, exact);
    return project(ops, ops.swiglu(inner[0], inner[1]), {&down}, exact).front();
  }
};

}  // namespace turboquant
