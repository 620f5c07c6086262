// Memory of this machine, and the pages of mapped files.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace turboquant {

struct MachineMemory {
  uint64_t total = 0;      // bytes; of the control group, where that allows less
  uint64_t available = 0;  // without swapping, page cache that can be dropped included
};

/// 0 where the system does not say.
MachineMemory machine_memory();

/// The most memory that this process has had resident since reset_peak_memory(), in bytes; 0 where the system does not
/// say. Linux alone can reset it.
uint64_t peak_memory();
/// Whether that is possible; gives back what the allocator holds without need, first.
bool reset_peak_memory();

/// Asks the system to back [data, data + bytes), fresh anonymous memory, by large pages, which are read faster as a
/// stream. Advice: it may do nothing.
void use_large_pages(void* data, size_t bytes);
/// Their size; memory that begins at a multiple of it has the most of them.
inline constexpr size_t kLargePage = size_t{2} << 20;

/// Zeros, aligned to 64 bytes. Large ones come from the system and go back to it with their last owner: for blocks that
/// live for very different times, of which a heap would keep the holes. Throws std::bad_alloc.
std::shared_ptr<std::byte> system_memory(size_t bytes);

/// Ranges of memory that will be read soon, to be asked for in as few calls as possible.
class PageRanges {
 public:
  struct Range {
    uintptr_t begin = 0, end = 0;
  };

  void add(const void* data, size_t bytes);
  /// Sorted, in whole pages; what lies closer together than `gap` bytes is one range.
  std::vector<Range> merged(size_t gap = size_t{64} << 10) const;
  /// Starts reading what is not in memory, without waiting for it (madvise).
  void will_need() const;
  size_t bytes() const;

 private:
  std::vector<Range> ranges_;
};

/// Whether pages have to be fetched from disk these days. Asking for pages that are in memory is not free: the kernel
/// looks each of them up, 0.2 ms for the 10 MB of an expert, which a product with them takes hardly longer than. So
/// this looks, for a microsecond, at the process's count of page faults that had to wait for the disk, and says yes for
/// a while after it has risen. Where all weights are in memory it never rises. Safe to use from several threads.
class PageWatch {
 public:
  /// True at the first kPatience calls, and at as many after one with a larger count than that before.
  bool see(int64_t faults) {
    if (faults != faults_.exchange(faults, std::memory_order_relaxed)) left_ = kPatience;
    return left_ > 0 && left_.fetch_sub(1, std::memory_order_relaxed) > 0;
  }
  /// see() of this process.
  bool see();

  static constexpr int kPatience = 32;

 private:
  std::atomic<int64_t> faults_ = 0;
  std::atomic<int> left_ = kPatience;
};

}  // namespace turboquant
