#include "cache/layer_memory.h"

#include <algorithm>

namespace turboquant {
namespace {

enum class Kind { full, compressed, original, recurrent };

std::vector<Kind> kinds_of(const std::vector<LayerMemory>& layers, const CacheOptions& options) {
  const auto keeping = std::count_if(layers.begin(), layers.end(), [](const auto& layer) { return layer.n_kv_heads; });
  const Kind compressed = options.format == KvFormat::original ? Kind::original : Kind::compressed;
  std::vector<Kind> kinds;
  int64_t seen = 0;  // layers that keep keys and values
  for (const LayerMemory& layer : layers) {
    if (layer.n_kv_heads == 0) {
      kinds.push_back(Kind::recurrent);
      continue;
    }
    const bool kept = seen < options.keep_layers || seen >= keeping - options.keep_layers;
    kinds.push_back(options.kv_bits.compressed() && layer.window == 0 && !kept ? compressed : Kind::full);
    ++seen;
  }
  return kinds;
}

std::unique_ptr<LayerCache> make_layer(Kind kind, const LayerMemory& memory, const CacheOptions& options) {
  switch (kind) {
    case Kind::recurrent:
      return make_recurrent_cache(memory);
    case Kind::compressed:
      return make_compressed_cache(memory, options.kv_bits);
    case Kind::original:
      return make_original_cache(memory, options.kv_bits, options.group_size);
    case Kind::full:
      break;
  }
  return make_full_cache(memory, options.dtype);
}

}  // namespace

Cache make_cache(const std::vector<LayerMemory>& layers, const CacheOptions& options) {
  const std::vector<Kind> kinds = kinds_of(layers, options);
  Cache cache;
  cache.memory = layers;
  cache.options = options;
  for (size_t i = 0; i < layers.size(); ++i) cache.layers.push_back(make_layer(kinds[i], layers[i], options));
  return cache;
}

void convert_cache(Ops& ops, Cache& cache, const CacheOptions& options) {
  constexpr int64_t kTokens = 512;  // at a time
  if (cache.options.kv_bits.compressed())
    throw Error("the cache is compressed already, to " + to_string(cache.options.kv_bits));
  const std::vector<Kind> kinds = kinds_of(cache.memory, options);
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] != Kind::compressed && kinds[i] != Kind::original) continue;
    const LayerMemory& memory = cache.memory[i];
    std::unique_ptr<LayerCache>& layer = cache.layers[i];
    std::unique_ptr<LayerCache> converted = make_layer(kinds[i], memory, options);
    for (int64_t begin = 0; begin < layer->length(); begin += kTokens) {
      const int64_t count = std::min(kTokens, layer->length() - begin);
      ops.begin_scope();
      const Tensor keys = ops.empty(DType::f32, {count, memory.width()}), values = ops.empty(DType::f32, keys.shape()),
                   none = ops.empty(DType::f32, {0, memory.width()});
      layer->read(ops, begin, keys, values);
      converted->attend(ops, none, keys, values, memory.shape(), none);
    }
    layer = std::move(converted);
  }
  cache.options = options;
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
    if (kinds[i] == Kind::recurrent)
      add(bytes.state, sizeof(float) * static_cast<double>(layer.state_floats));
    else if (kinds[i] == Kind::compressed)
      add(bytes.kv, static_cast<double>(compressed_cache_bytes(ops, layer, options.kv_bits, tokens)));
    else if (kinds[i] == Kind::original)
      add(bytes.kv, static_cast<double>(original_cache_bytes(layer, options.kv_bits, options.group_size, tokens)));
    else
      add(bytes.kv, static_cast<double>(full_cache_bytes(ops, layer, options.dtype, tokens)));
  }
  return bytes;
}

}  // namespace turboquant
