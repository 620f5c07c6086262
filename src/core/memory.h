// How much memory this machine has.
#pragma once

#include <cstdint>

namespace turboquant {

struct MachineMemory {
  uint64_t total = 0;      // bytes; of the control group, where that allows less
  uint64_t available = 0;  // without swapping, page cache that can be dropped included
};

/// 0 where the system does not say.
MachineMemory machine_memory();

}  // namespace turboquant
