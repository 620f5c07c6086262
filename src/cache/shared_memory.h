// Memory that forks of a cache share until one of them writes to it. Each of them is used by one thread at a time.
#pragma once

#include <cstring>
#include <memory>

#include "cache/cache.h"
#include "core/memory.h"

namespace turboquant {

class SharedMemory {
 public:
  SharedMemory() = default;
  explicit SharedMemory(size_t bytes) : memory_(system_memory(bytes)), bytes_(bytes) {}

  std::byte* data() const { return memory_.get(); }
  size_t bytes() const { return bytes_; }
  CacheFootprint footprint() const {
    if (!memory_) return {};
    const long users = memory_.use_count();
    return {static_cast<double>(bytes()) / static_cast<double>(users), users == 1 ? bytes() : 0};
  }

  /// Before writing: a copy, if others have it, too.
  void make_own() {
    if (memory_.use_count() == 1) {
      // use_count() does not order memory accesses, but giving up a reference does: another thread, whose cache had
      // this memory too, has read what it copied.
      std::shared_ptr<std::byte>(memory_).reset();
      return;
    }
    SharedMemory copy(bytes());
    std::memcpy(copy.data(), data(), bytes());
    *this = std::move(copy);
  }

 private:
  std::shared_ptr<std::byte> memory_;
  size_t bytes_ = 0;
};

}  // namespace turboquant
