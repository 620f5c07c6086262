// Causal self-attention with normed queries and keys, whose result is gated by a sigmoid of the layer's input.
#pragma once

#include "nn/attention.h"

namespace turboquant {

struct GatedAttention {
  AttentionShape shape;
  Linear q, k, v, o;      // q: for each head, its query and then its gate
  Tensor q_norm, k_norm;  // F32 [head_dim], of each head
  float eps = 0;

  /// Reads MODULE.q_proj, k_proj, v_proj, o_proj, with their biases if they have any, q_norm and k_norm, to whose
  /// weights `norm_offset` is added.
  static GatedAttention load(Loader& loader, const std::string& module, int64_t hidden_size,
                             const AttentionShape& shape, float eps, float norm_offset);

  /// x F32 [tokens, hidden_size] -> the same shape. `layer` chooses the cache.
  Tensor forward(Ops& ops, const Tensor& x, const Step& step, const Rope& rope, size_t layer) const;
};

}  // namespace turboquant
