#include "cache/cache.h"

#include <algorithm>
#include <string>

namespace turboquant {

// A model that asks its cache for a kind of attention that it did not make it for is at fault, not the input.
// NOLINTBEGIN(performance-unnecessary-value-param): the signature is that of the kinds that do write `out`
void LayerCache::attend(Ops& /*ops*/, const Tensor& /*q*/, const Tensor& /*k*/, const Tensor& /*v*/,
                        const AttentionShape& /*shape*/, Tensor /*out*/) {
  throw Error("this layer's cache keeps no keys and values");
}

void LayerCache::recur(Ops& /*ops*/, const Tensor& /*qkv*/, const Tensor& /*conv*/, const DeltaGates& /*gates*/,
                       const DeltaShape& /*shape*/, Tensor /*out*/) {
  throw Error("this layer's cache keeps no state of linear attention");
}
// NOLINTEND(performance-unnecessary-value-param)

void LayerCache::check_reach(int64_t length) const {
  if (reach(length) != length)
    throw Error("a cache of " + std::to_string(this->length()) + " tokens cannot go back to " + std::to_string(length));
}

Cache Cache::fork() const {
  Cache copy;
  for (const auto& layer : layers) copy.layers.push_back(layer->fork());
  return copy;
}

int64_t Cache::trim(int64_t length) {
  int64_t common = std::max<int64_t>(std::min(length, this->length()), 0);
  for (bool agreed = false; !agreed;) {  // each turn lowers it; all can go back to 0
    agreed = true;
    for (const auto& layer : layers) {
      const int64_t reached = layer->reach(common);
      agreed = agreed && reached == common;
      common = reached;
    }
  }
  for (const auto& layer : layers) layer->trim(common);
  return common;
}

}  // namespace turboquant
