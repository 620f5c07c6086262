#include "cache/layer_memory.h"

#include <algorithm>

namespace turboquant {
namespace {

enum class Kind { full, compressed, recurrent };

std::vector<Kind> kinds_of(const std::vector<LayerMemory>& layers, const CacheOptions& options) {
  const auto keeping = std::count_if(layers.begin(), layers.end(), [](const auto& layer) { return layer.n_kv_heads; });
  std::vector<Kind> kinds;
  int64_t seen = 0;  // layers that keep keys and values
  for (const LayerMemory& layer : layers) {
    if (layer.n_kv_heads == 0) {
      kinds.push_back(Kind::recurrent);
      continue;
    }
    const bool kept = seen < options.keep_layers || seen >= keeping - options.keep_layers;
    kinds.push_back(options.kv_bits.compressed() && layer.window == 0 && !kept ? Kind::compressed : Kind::full);
    ++seen;
  }
  return kinds;
}

}  // namespace

Cache make_cache(const std::vector<LayerMemory>& layers, const CacheOptions& options) {
  const std::vector<Kind> kinds = kinds_of(layers, options);
  Cache cache;
  for (size_t i = 0; i < layers.size(); ++i)
    cache.layers.push_back(kinds[i] == Kind::recurrent    ? make_recurrent_cache()
                           : kinds[i] == Kind::compressed ? make_compressed_cache(options.kv_bits, layers[i].head_dim)
                                                          : make_full_cache(options.dtype));
  return cache;
}

CacheBytes cache_bytes(const Ops& ops, const std::vector<LayerMemory>& layers, const CacheOptions& options,
                       int64_t tokens) {
  constexpr double kMost = 0x1p58;  // sums of a few of these do not overflow
  const std::vector<Kind> kinds = kinds_of(layers, options);
  CacheBytes bytes;
  const auto add = [](uint64_t& sum, double more) {
    sum += static_cast<uint64_t>(std::min(more, kMost - static_cast<double>(sum)));
  };
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerMemory& layer = layers[i];
    const AttentionShape shape{layer.n_kv_heads, layer.n_kv_heads, layer.head_dim, 1, layer.window, {}};
    if (kinds[i] == Kind::recurrent)
      add(bytes.state, sizeof(float) * static_cast<double>(layer.state_floats));
    else if (kinds[i] == Kind::compressed)
      add(bytes.kv, static_cast<double>(compressed_cache_bytes(ops, shape, options.kv_bits, tokens)));
    else
      add(bytes.kv, static_cast<double>(full_cache_bytes(ops, shape, options.dtype, tokens)));
  }
  return bytes;
}

}  // namespace turboquant
