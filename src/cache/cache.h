// What a model remembers of one sequence: a cache a layer. The cache performs attention, full or linear: a model hands
// q, k and v to its layer's cache and gets the result; it never asks what kind of cache it holds.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "ops/ops.h"

namespace turboquant {

/// What the cache of one layer keeps of a sequence.
struct LayerMemory {
  int64_t n_kv_heads = 0, head_dim = 0;  // of the keys, and of the values, of each token; 0 heads: none are kept
  int64_t window = 0;                    // only so many tokens; 0: all
  int64_t state_floats = 0;              // of linear attention, F32, whatever the number of tokens

  int64_t width() const { return n_kv_heads * head_dim; }
  /// As operations on keys and values alone want it.
  AttentionShape shape() const { return {n_kv_heads, n_kv_heads, head_dim, 1, window, {}}; }
};

/// What a cache remembers, as tensors that do not depend on the backend; named within the layer.
struct LayerState {
  int64_t length = 0;  // tokens
  std::map<std::string, Tensor> tensors;

  /// A tensor as restore() needs it. Error if it is missing, or of another type or shape.
  const Tensor& tensor(const std::string& name, DType dtype, const Shape& shape) const;
  /// The first dimension of a tensor, or 0.
  int64_t rows(const std::string& name) const;
};

/// A copy in another floating-point type.
inline Tensor in_type(const Tensor& x, DType dtype) { return from_float(to_float(x).data<float>(), x.shape(), dtype); }

/// What a cache takes up among others with which it shares memory.
struct CacheFootprint {
  double share = 0;  // bytes, of memory that n caches have 1/n: all caches' shares add up to the memory of all
  size_t own = 0;    // bytes that would be free without this cache

  CacheFootprint& operator+=(const CacheFootprint& other) {
    share += other.share;
    own += other.own;
    return *this;
  }
};

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
  virtual CacheFootprint footprint() const { return {static_cast<double>(bytes()), bytes()}; }

  /// A copy that goes on by itself. Keys and values are shared until one of both writes to their memory.
  virtual std::unique_ptr<LayerCache> fork() const = 0;
  /// The most tokens, `length` at most, that the cache can go back to.
  virtual int64_t reach(int64_t length) const = 0;
  /// Whether that is every length, and always will be.
  virtual bool goes_back() const = 0;
  /// Forgets the tokens behind the first `length`, which reach() must have said. The cache then goes on, to the last
  /// bit, as one that never saw them.
  virtual void trim(int64_t length) = 0;

  /// Writes the keys and values of tokens begin, begin + 1, ... as attention sees them: F32 [tokens,
  /// LayerMemory::width()]. Error: the tokens are not remembered.
  virtual void read(Ops& ops, int64_t begin, Tensor keys, Tensor values) const;
  /// Everything that is remembered.
  virtual LayerState save(Ops& ops) const = 0;
  /// Goes on, to the last bit, as the cache that was saved. For empty caches of the same kind and sizes. Error: the
  /// state is not one of such a cache.
  virtual void restore(Ops& ops, const LayerState& state) = 0;

 protected:
  LayerCache() = default;
  LayerCache(const LayerCache&) = default;
  LayerCache& operator=(const LayerCache&) = default;
  void check_reach(int64_t length) const;
};

/// The state of linear attention, F32: as large after many tokens as after one.
std::unique_ptr<LayerCache> make_recurrent_cache(const LayerMemory& memory);

/// Keys and values in full precision, F16 or F32, in pages.
std::unique_ptr<LayerCache> make_full_cache(const LayerMemory& memory, DType dtype);
/// Its bytes() after so many tokens.
size_t full_cache_bytes(const Ops& ops, const LayerMemory& memory, DType dtype, int64_t tokens);

/// Keys and values compressed (quant/kv.h), all but the first kKvFirstTokens and the newest, in F16: at least one block
/// of kKvBlockTokens, at most two. For layers without a window. Error: heads that cannot be compressed.
std::unique_ptr<LayerCache> make_compressed_cache(const LayerMemory& memory, KvBits bits);
/// Its bytes() after so many tokens.
size_t compressed_cache_bytes(const Ops& ops, const LayerMemory& memory, KvBits bits, int64_t tokens);

/// Keys and values as the original, turboquant-mlx, compresses them (quant/kv_original.h): all of them, and all are
/// decoded for each step. For comparison. `group_size`, or what of it divides head_dim, has one scale.
std::unique_ptr<LayerCache> make_original_cache(const LayerMemory& memory, KvBits bits, int64_t group_size);
/// Its bytes() after so many tokens.
size_t original_cache_bytes(const LayerMemory& memory, KvBits bits, int64_t group_size, int64_t tokens);

enum class KvFormat { tcq, original };

/// How the caches of a model's layers keep keys and values.
struct CacheOptions {
  DType dtype = DType::f16;         // of keys and values that are not compressed
  KvBits kv_bits = {};              // compresses layers of full attention
  int64_t keep_layers = 0;          // but not so many first and so many last of those that keep keys and values
  KvFormat format = KvFormat::tcq;  // of what is compressed
  int64_t group_size = 64;          // of KvFormat::original

  bool operator==(const CacheOptions&) const = default;
};

struct Cache {
  std::vector<std::unique_ptr<LayerCache>> layers;
  std::vector<LayerMemory> memory;  // of each layer
  CacheOptions options;             // what the layers were made from, with `memory`

  int64_t length() const { return layers.empty() ? 0 : layers.front()->length(); }
  size_t bytes() const {
    size_t total = 0;
    for (const auto& layer : layers) total += layer->bytes();
    return total;
  }
  CacheFootprint footprint() const;
  Cache fork() const;
  /// The most tokens, `length` at most, that all layers can go back to.
  int64_t reach(int64_t length) const;
  /// Whether that is every length, and always will be.
  bool goes_back() const;
  /// Forgets the tokens behind the first reach(length): returns how many are left. The tokens behind them must be given
  /// again.
  int64_t trim(int64_t length);
};

}  // namespace turboquant
