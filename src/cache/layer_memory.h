// What the layers of a model keep of a sequence: from this its caches are made, and their bytes known without them.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/cache.h"

namespace turboquant {

/// What the cache of one layer keeps of a sequence.
struct LayerMemory {
  int64_t n_kv_heads = 0, head_dim = 0;  // of the keys, and of the values, of each token; 0 heads: none are kept
  int64_t window = 0;                    // only so many tokens; 0: all
  int64_t state_floats = 0;              // of linear attention, F32, whatever the number of tokens
};

struct CacheOptions {
  DType dtype = DType::f16;  // of keys and values that are not compressed
  KvBits kv_bits = {};       // compresses layers of full attention
  int64_t keep_layers = 0;   // but not so many first and so many last of those that keep keys and values
};

/// An empty cache of such layers. Error: heads that cannot be compressed.
Cache make_cache(const std::vector<LayerMemory>& layers, const CacheOptions& options);

struct CacheBytes {
  uint64_t kv = 0, state = 0;  // of keys and values, and of linear attention
};
/// bytes() of such a cache after so many tokens, one or more; sizes beyond 2^58 count as that. Error: heads that cannot
/// be compressed.
CacheBytes cache_bytes(const Ops& ops, const std::vector<LayerMemory>& layers, const CacheOptions& options,
                       int64_t tokens);

}  // namespace turboquant
