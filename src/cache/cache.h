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
  /// their queries, F32 [tokens, n_heads * head_dim], to `out` of the same shape. Without queries it only remembers.
  virtual void attend(Ops& ops, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                      Tensor out);
  /// Linear attention of new tokens: `qkv`, F32 [tokens, shape.channels()], goes through the causal convolution `conv`,
  /// F32 [taps, channels], and the gated delta rule. Writes `out`, F32 [tokens, shape.values()].
  virtual void recur(Ops& ops, const Tensor& qkv, const Tensor& conv, const DeltaGates& gates, const DeltaShape& shape,
                     Tensor out);
  /// Tokens remembered.
  virtual int64_t length() const = 0;
  /// Bytes that the remembered tokens take up; memory that forks share counts for each of them.
  virtual size_t bytes() const = 0;

  /// A copy that goes on by itself. Keys and values are shared until one of both writes to their memory.
  virtual std::unique_ptr<LayerCache> fork() const = 0;
  /// The most tokens, `length` at most, that the cache can go back to.
  virtual int64_t reach(int64_t length) const = 0;
  /// Forgets the tokens behind the first `length`, which reach() must have said. The cache then goes on, to the last
  /// bit, as one that never saw them.
  virtual void trim(int64_t length) = 0;

 protected:
  LayerCache() = default;
  LayerCache(const LayerCache&) = default;
  LayerCache& operator=(const LayerCache&) = default;
  void check_reach(int64_t length) const;
};

/// The state of linear attention, F32: as large after many tokens as after one.
std::unique_ptr<LayerCache> make_recurrent_cache();

/// Keys and values in full precision, F16 or F32, in pages.
std::unique_ptr<LayerCache> make_full_cache(DType dtype);
/// Its bytes() after so many tokens.
size_t full_cache_bytes(const Ops& ops, const AttentionShape& shape, DType dtype, int64_t tokens);

/// Keys and values compressed (quant/kv.h), all but the first kKvFirstTokens and the newest, in F16: at least one block
/// of kKvBlockTokens, at most two. For layers without a window. Error: heads that cannot be compressed.
std::unique_ptr<LayerCache> make_compressed_cache(KvBits bits, int64_t head_dim);
/// Its bytes() after so many tokens.
size_t compressed_cache_bytes(const Ops& ops, const AttentionShape& shape, KvBits bits, int64_t tokens);

struct Cache {
  std::vector<std::unique_ptr<LayerCache>> layers;

  int64_t length() const { return layers.empty() ? 0 : layers.front()->length(); }
  size_t bytes() const {
    size_t total = 0;
    for (const auto& layer : layers) total += layer->bytes();
    return total;
  }
  Cache fork() const;
  /// Forgets tokens from the end until `length` at most are left, and as many as all layers can go back to: returns how
  /// many. The tokens behind them must be given again.
  int64_t trim(int64_t length);
};

}  // namespace turboquant
