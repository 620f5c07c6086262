// Causal self-attention with grouped queries and rotary positions.
#pragma once

#include "cache/cache.h"
#include "nn/linear.h"
#include "nn/rope.h"

namespace turboquant {

/// Where one sequence's tokens lie among the rows of a step, and the caches it writes to.
struct SequenceRows {
  Cache* cache = nullptr;
  int64_t begin = 0, end = 0;
};

/// What all layers of a step share.
struct Step {
  std::span<const SequenceRows> sequences;
  std::span<const int32_t> positions;  // of every row
  bool exact = false;                  // no int8 activations
};

/// What some architectures have beyond the projections.
struct AttentionParts {
  bool qk_norms = false;  // an RMS norm of every head of queries and keys, before the rotary positions
  bool sinks = false;     // a score of each head that is no token's
};

/// Causal attention of every sequence of a step over its cache of that layer: queries F32 [tokens, n_heads * head_dim],
/// keys and values F32 [tokens, n_kv_heads * head_dim] -> the shape of queries.
Tensor attend(Ops& ops, const Tensor& queries, const Tensor& keys, const Tensor& values, const AttentionShape& shape,
              const Step& step, size_t layer);

struct Attention {
  AttentionShape shape;
  Linear q, k, v, o;
  Tensor q_norm, k_norm;  // F32 [head_dim], or empty
  float eps = 0;          // of these norms

  /// Reads MODULE.q_proj, k_proj, v_proj, o_proj, with their biases if they have any, and MODULE.q_norm, k_norm, sinks
  /// if `parts` says so.
  static Attention load(Loader& loader, const std::string& module, int64_t hidden_size, const AttentionShape& shape,
                        const AttentionParts& parts = {}, float eps = 0);

  /// x F32 [tokens, hidden_size] -> the same shape. `layer` chooses the cache.
  Tensor forward(Ops& ops, const Tensor& x, const Step& step, const Rope& rope, size_t layer) const;
};

}  // namespace turboquant
