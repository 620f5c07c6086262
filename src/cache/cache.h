// What a model remembers of one sequence: a cache a layer. The cache performs attention, full or linear: a model hands
// q, k and v to its layer's cache and gets the result; it never asks what kind of cache it holds.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "ops/ops.h"

namespace turboquant {

class LayerCache {
 public:
  virtual ~LayerCache() = default;

  /// Remembers keys and values of new tokens, F32 [tokens, n_kv_heads * head_dim], and writes the causal attention of
  /// their queries, F32 [tokens, n_heads * head_dim], to `out` of the same shape.
  virtual void attend(Ops& ops, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                      Tensor out);
  /// Linear attention of new tokens: `qkv`, F32 [tokens, shape.channels()], goes through the causal convolution `conv`,
  /// F32 [taps, channels], and the gated delta rule. Writes `out`, F32 [tokens, shape.values()].
  virtual void recur(Ops& ops, const Tensor& qkv, const Tensor& conv, const DeltaGates& gates, const DeltaShape& shape,
                     Tensor out);
  /// Tokens remembered.
  virtual int64_t length() const = 0;
  /// Bytes that the remembered tokens take up.
  virtual size_t bytes() const = 0;
};

/// The state of linear attention, F32: as large after many tokens as after one.
std::unique_ptr<LayerCache> make_recurrent_cache();

/// Keys and values in full precision, F16 or F32, in pages.
std::unique_ptr<LayerCache> make_full_cache(DType dtype);

struct Cache {
  std::vector<std::unique_ptr<LayerCache>> layers;

  int64_t length() const { return layers.empty() ? 0 : layers.front()->length(); }
  size_t bytes() const {
    size_t total = 0;
    for (const auto& layer : layers) total += layer->bytes();
    return total;
  }
};

}  // namespace turboquant
