// How many bytes the caches of an engine take up, and how many they may.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "core/clock.h"
#include "generate/prefix_cache.h"

namespace turboquant {

/// An upper bound is kept, to which steps add what caches may grow by; all caches are looked at only where that bound
/// would be too much.
class KvMemory {
 public:
  /// `measure`: bytes of all caches, shared memory counted once.
  KvMemory(uint64_t limit, PrefixCache& prefixes, std::function<double()> measure)
      : limit_(limit), prefixes_(prefixes), measure_(std::move(measure)) {}

  uint64_t limit() const { return limit_; }
  uint64_t used() const { return used_; }
  /// Looks at all caches, if that was quick the last time.
  void refresh() {
    constexpr double kQuick = 1e-3;
    if (seconds_ < kQuick) measure();
  }
  void add(uint64_t bytes) { used_ += bytes; }

  /// Whether there is room for so many bytes more; if need be, prefixes are given up for them: `evicted` counts these.
  bool make_room(uint64_t bytes, int64_t& evicted) {
    if (fits(bytes)) return true;
    measure();
    // A little more than is needed, so that not every step has to measure.
    const uint64_t more = fits(bytes) ? 0 : limit_ / 32;
    while (!fits(bytes + more)) {
      const std::optional<size_t> freed = prefixes_.evict();
      if (!freed) break;
      ++evicted;
      used_ -= std::min<uint64_t>(used_, *freed);
    }
    return fits(bytes);
  }

 private:
  void measure() {
    const auto start = Clock::now();
    used_ = static_cast<uint64_t>(measure_());
    seconds_ = seconds_since(start);
  }
  bool fits(uint64_t bytes) const { return bytes <= limit_ && used_ <= limit_ - bytes; }

  uint64_t limit_;
  PrefixCache& prefixes_;
  std::function<double()> measure_;
  uint64_t used_ = 0;
  double seconds_ = 0;  // that measure() took
};

}  // namespace turboquant
