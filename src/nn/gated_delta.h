// Linear attention by the gated delta rule (Yang et al. 2024, "Gated Delta Networks"), as Qwen3-Next and Qwen3.5 use
// it.
#pragma once

#include "nn/attention.h"

namespace turboquant {

struct GatedDelta {
  DeltaShape shape;
  Linear qkv, z, b, a, out;
  Tensor conv;           // F32 [taps, channels]
  Tensor rate, dt_bias;  // F32 [n_value_heads]; rate = exp(A_log)
  Tensor norm;           // F32 [value_dim], of each value head
  float eps = 0;

  /// Reads MODULE.in_proj_qkv, in_proj_z, in_proj_b, in_proj_a, out_proj, conv1d, A_log, dt_bias, norm.
  static GatedDelta load(Loader& loader, const std::string& module, int64_t hidden_size, const DeltaShape& shape,
                         int64_t taps, float eps);

  /// x F32 [tokens, hidden_size] -> the same shape. `layer` chooses the cache.
  Tensor forward(Ops& ops, const Tensor& x, const Step& step, size_t layer) const;
};

}  // namespace turboquant
