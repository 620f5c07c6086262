// A checkpoint some of whose tensors are replaced by others in memory.
#pragma once

#include <map>
#include <string>

#include "io/checkpoint.h"

namespace turboquant {

/// What `base` holds, but for tensors that were put here; tensors() lists those of `base`. What was read of `base` is
/// kept until it is forgotten, so that a tensor that must be decoded is decoded once, and lies at one address. For one
/// thread at a time.
class OverlayCheckpoint final : public Checkpoint {
 public:
  /// `base` must outlive this.
  OverlayCheckpoint(const Checkpoint& base, nlohmann::json config);

  void put(const std::string& name, const Tensor& tensor);
  /// Everything whose name begins so: what was put here, and what was kept.
  void forget(const std::string& prefix);

  const TensorInfo* find(std::string_view name) const override;
  Tensor read(std::string_view name) const override;
  std::optional<std::string> file(std::string_view name) const override { return base_.file(name); }
  uint64_t size_on_disk() const override { return base_.size_on_disk(); }

 private:
  struct Entry {
    TensorInfo info;
    Tensor tensor;
  };

  const Checkpoint& base_;
  mutable std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace turboquant
