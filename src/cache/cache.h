// What a model remembers of one sequence: a cache a layer. The cache performs attention: a model hands q, k and v to
// its layer's cache and gets the result; it never asks what kind of cache it holds.
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
                      Tensor out) = 0;
  /// Tokens remembered.
  virtual int64_t length() const = 0;
  /// Bytes that the remembered tokens take up.
  virtual size_t bytes() const = 0;
};

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
