// The caches of a model, made from what its layers keep of a sequence; their bytes known without them.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/cache.h"

namespace turboquant {

/// An empty cache of such layers. Error: heads that cannot be compressed.
Cache make_cache(const std::vector<LayerMemory>& layers, const CacheOptions& options);

/// Compresses a cache in place, layer by layer, each given back as soon as its successor stands: what `options`
/// compresses and the cache does not. Windows and states of linear attention stay as they are. Error: heads that cannot
/// be compressed, or a cache that is compressed already.
void convert_cache(Ops& ops, Cache& cache, const CacheOptions& options);

struct CacheBytes {
  uint64_t kv = 0, state = 0;  // of keys and values, and of linear attention
};
/// bytes() of such a cache after so many tokens, one or more; sizes beyond 2^58 count as that. Error: heads that cannot
/// be compressed.
CacheBytes cache_bytes(const Ops& ops, const std::vector<LayerMemory>& layers, const CacheOptions& options,
                       int64_t tokens);

}  // namespace turboquant
