#include "core/memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

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

}  // namespace turboquant
