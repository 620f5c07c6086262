// What this machine can do, measured in the same run as whatever is compared with it.
#pragma once

#include "core/thread_pool.h"
#include "ops/cpu/kernels.h"

namespace turboquant {

/// Bytes a second that all threads read from memory together: a plain streaming sum over 2 GiB in large
/// pages, the best of `passes`.
double memory_read_rate(ThreadPool& pool, float (*sum)(const float* x, int64_t n), int passes = 5);

/// Operations a second of all threads that do nothing but multiply-adds (two operations each) in registers.
double peak_rate(ThreadPool& pool, int64_t (*loop)(int64_t repeats));

/// Seconds of an empty parallel region.
double fork_join_seconds(ThreadPool& pool);

}  // namespace turboquant
