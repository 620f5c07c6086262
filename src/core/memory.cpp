#include "core/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

#include "core/tensor.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace turboquant {
namespace {

std::optional<uint64_t> number_in(const char* path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;  // "max" is no number
  return std::nullopt;
}

}  // namespace

MachineMemory machine_memory() {
  MachineMemory memory;
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  uint64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    std::getline(file, unit);
    if (key == "MemTotal:") memory.total = kilobytes * 1024;
    if (key == "MemAvailable:") memory.available = kilobytes * 1024;
  }
  if (memory.total == 0) {
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0)
      memory.total = memory.available = static_cast<uint64_t>(pages) * static_cast<uint64_t>(page);
  }
  if (const auto limit = number_in("/sys/fs/cgroup/memory.max"); limit && *limit < memory.total) {
    const uint64_t used = number_in("/sys/fs/cgroup/memory.current").value_or(0);
    memory.total = *limit;
    memory.available = std::min(memory.available, *limit - std::min(*limit, used));
  }
  return memory;
}

uint64_t peak_memory() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  return 0;
}

bool reset_peak_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
  std::ofstream file("/proc/self/clear_refs");
  return file << "5" << std::flush && file.good();  // proc(5)
}

void use_large_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  ::madvise(data, bytes, MADV_HUGEPAGE);
#endif
}

std::shared_ptr<std::byte> system_memory(size_t bytes) {
  constexpr size_t kLarge = size_t{64} << 10;
  if (bytes >= kLarge) {
    void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data != MAP_FAILED)
      return {static_cast<std::byte*>(data), [bytes](std::byte* memory) { ::munmap(memory, bytes); }};
  }  // or the heap, which has some left when a process may have no more mappings
  const auto heap = std::make_shared<Tensor>(Tensor::zeros(DType::u8, {static_cast<int64_t>(bytes)}));
  return {heap, heap->data<std::byte>()};
}

void PageRanges::add(const void* data, size_t bytes) {
  if (bytes == 0) return;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  ranges_.push_back({begin, begin + bytes});
}

std::vector<PageRanges::Range> PageRanges::merged(size_t gap) const {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  std::vector<Range> sorted = ranges_, result;
  std::sort(sorted.begin(), sorted.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (Range range : sorted) {
    range.begin = range.begin / page * page;
    range.end = (range.end + page - 1) / page * page;
    if (!result.empty() && range.begin <= result.back().end + gap)
      result.back().end = std::max(result.back().end, range.end);
    else
      result.push_back(range);
  }
  return result;
}

void PageRanges::will_need() const {
  for (const Range& range : merged()) {
    auto* begin = reinterpret_cast<void*>(range.begin);        // NOLINT(performance-no-int-to-ptr): a page of a tensor
    ::madvise(begin, range.end - range.begin, MADV_WILLNEED);  // advice: it may fail
  }
}

size_t PageRanges::bytes() const {
  size_t total = 0;
  for (const Range& range : ranges_) total += range.end - range.begin;
  return total;
}

bool PageWatch::see() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return see(usage.ru_majflt);
}

}  // namespace turboquant
