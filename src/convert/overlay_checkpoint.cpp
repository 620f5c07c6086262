#include "convert/overlay_checkpoint.h"

namespace turboquant {

OverlayCheckpoint::OverlayCheckpoint(const Checkpoint& base, nlohmann::json config) : base_(base) {
  path_ = base.path();
  config_ = std::move(config);
  tensors_ = base.tensors();
}

void OverlayCheckpoint::put(const std::string& name, const Tensor& tensor) {
  entries_[name] = {{name, tensor.dtype(), tensor.shape()}, tensor};
}

void OverlayCheckpoint::forget(const std::string& prefix) {
  const auto begin = entries_.lower_bound(prefix);
  auto end = begin;
  while (end != entries_.end() && end->first.starts_with(prefix)) ++end;
  entries_.erase(begin, end);
}

const TensorInfo* OverlayCheckpoint::find(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? base_.find(name) : &found->second.info;
}

Tensor OverlayCheckpoint::read(std::string_view name) const {
  auto found = entries_.find(name);
  if (found == entries_.end()) {
    const Tensor tensor = base_.read(name);
    found =
        entries_.emplace(std::string(name), Entry{{std::string(name), tensor.dtype(), tensor.shape()}, tensor}).first;
  }
  return found->second.tensor;
}

}  // namespace turboquant
