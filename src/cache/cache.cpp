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
void LayerCache::read(Ops& /*ops*/, int64_t /*begin*/, Tensor /*keys*/, Tensor /*values*/) const {
  throw Error("this layer's cache keeps no keys and values");
}
// NOLINTEND(performance-unnecessary-value-param)

void LayerCache::check_reach(int64_t length) const {
  if (reach(length) != length)
    throw Error("a cache of " + std::to_string(this->length()) + " tokens cannot go back to " + std::to_string(length));
}

const Tensor& LayerState::tensor(const std::string& name, DType dtype, const Shape& shape) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw Error("no tensor '" + name + "'");
  const Tensor& tensor = found->second;
  if (tensor.dtype() != dtype || tensor.shape() != shape)
    throw Error("'" + name + "' is " + std::string(turboquant::name(tensor.dtype())) + " " + to_string(tensor.shape()) +
                ", expected " + std::string(turboquant::name(dtype)) + " " + to_string(shape));
  return tensor;
}

int64_t LayerState::rows(const std::string& name) const {
  const auto found = tensors.find(name);
  return found == tensors.end() || found->second.shape().rank() == 0 ? 0 : found->second.dim(0);
}

Cache Cache::fork() const {
  Cache copy;
  copy.memory = memory;
  copy.options = options;
  for (const auto& layer : layers) copy.layers.push_back(layer->fork());
  return copy;
}

CacheFootprint Cache::footprint() const {
  CacheFootprint total;
  for (const auto& layer : layers) total += layer->footprint();
  return total;
}

int64_t Cache::reach(int64_t length) const {
  int64_t common = std::max<int64_t>(std::min(length, this->length()), 0);
  for (bool agreed = false; !agreed;) {  // each turn lowers it; all can go back to 0
    agreed = true;
    for (const auto& layer : layers) {
      const int64_t reached = layer->reach(common);
      agreed = agreed && reached == common;
      common = reached;
    }
  }
  return common;
}

bool Cache::goes_back() const {
  return std::all_of(layers.begin(), layers.end(), [](const auto& layer) { return layer->goes_back(); });
}

int64_t Cache::trim(int64_t length) {
  const int64_t left = reach(length);
  for (const auto& layer : layers) layer->trim(left);
  return left;
}

}  // namespace turboquant
