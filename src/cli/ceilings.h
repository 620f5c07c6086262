// What this machine can do, measured in the same run as whatever is compared with it.
#pragma once

#include "core/thread_pool.h"
#include "ops/cpu/kernels.h"

namespace turboquant {

/// Bytes a second that all threads read from memory together: a plain streaming sum over 1 GiB, the best of `passes`.
double memory_read_rate(ThreadPool& pool, int passes = 5);

/// int8 multiply-adds a second of all threads on data in the first-level cache, counted as two operations each.
double int8_peak_rate(ThreadPool& pool, const Kernels& kernels);

/// Seconds of an empty parallel region.
double fork_join_seconds(ThreadPool& pool);

}  // namespace turboquant
