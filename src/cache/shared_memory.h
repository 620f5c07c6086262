// Memory that forks of a cache share until one of them writes to it. A cache and its forks are used by one thread at a
// time.
#pragma once

#include <cstring>
#include <memory>

#include "cache/cache.h"
#include "core/tensor.h"

namespace turboquant {

class SharedMemory {
 public:
  SharedMemory() = default;
  explicit SharedMemory(size_t bytes)
      : memory_(std::make_shared<Tensor>(Tensor::zeros(DType::u8, {static_cast<int64_t>(bytes)}))) {}

  std::byte* data() const { return memory_->data<std::byte>(); }
  size_t bytes() const { return memory_ ? memory_->bytes() : 0; }
  CacheFootprint footprint() const {
    if (!memory_) return {};
    const long users = memory_.use_count();
    return {static_cast<double>(bytes()) / static_cast<double>(users), users == 1 ? bytes() : 0};
  }

  /// Before writing: a copy, if others have it, too.
  void make_own() {
    if (memory_.use_count() == 1) return;
    SharedMemory copy(bytes());
    std::memcpy(copy.data(), data(), bytes());
    *this = std::move(copy);
  }

 private:
  std::shared_ptr<Tensor> memory_;
};

}  // namespace turboquant
