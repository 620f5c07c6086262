// The hot kernels, each with an input of a real model's size: the cases that bench/kernels_benchmark.cpp times and
// bench/kernel_counts.cpp counts the instructions of.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/cpu.h"

namespace turboquant {

/// A case with its input in memory.
struct KernelRun {
  double bytes = 0;          // what a run reads, and writes where the result is as large
  double multiply_adds = 0;  // 0: not what the kernel is about
  double weights = 0;        // of an encoder, what a run encodes
  std::function<void()> run;
};

struct KernelCase {
  std::string name;  // "tile_dot/3bit/cache/avx2"
  bool in_cache;     // false: an input several times larger than the caches
  std::function<KernelRun()> prepare;
};

/// All cases at a level, which the processor must have.
std::vector<KernelCase> kernel_cases(CpuLevel level);

/// The levels that this processor has, whatever the environment says, up to `highest`.
std::vector<CpuLevel> levels_up_to(CpuLevel highest);

}  // namespace turboquant
