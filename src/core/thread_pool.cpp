#include "core/thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace turboquant {
namespace {

thread_local bool inside_region = false;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

std::vector<int> usable_processors() {
  std::vector<int> processors;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &set)) processors.push_back(i);
#endif
  if (processors.empty())
    for (int i = 0; i < static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); ++i)
      processors.push_back(i);
  return processors;
}

void pin_to([[maybe_unused]] const std::vector<int>& processors) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int processor : processors) CPU_SET(processor, &set);
  sched_setaffinity(0, sizeof set, &set);  // a container may refuse; then the scheduler decides
#endif
}

// Found once, before anything is pinned: a pinned thread would only see its own processor.
const std::vector<int>& processors() {
  static const std::vector<int> all = usable_processors();
  return all;
}

}  // namespace

void pin_calling_thread() { pin_to({processors().front()}); }
void unpin_calling_thread() { pin_to(processors()); }

std::shared_ptr<ThreadPool> make_thread_pool(int threads) {
  return std::make_shared<ThreadPool>(std::min(threads, static_cast<int>(processors().size())));
}

ThreadPool::ThreadPool(int threads) {
  const std::vector<int>& usable = processors();
  const int count = threads > 0 ? threads : static_cast<int>(usable.size());
  // About 100 us of spinning bridges the gaps between the regions of a step. With more threads than processors a
  // spinning thread only keeps a working one from running.
  spin_ = count <= static_cast<int>(usable.size()) ? 4000 : 0;
  for (int i = 1; i < count; ++i)
    workers_.emplace_back([this, i, &usable, count] {
      // More threads than processors roam: they would inherit the one that a pinned caller has.
      if (count <= static_cast<int>(usable.size()))
        pin_to({usable[static_cast<size_t>(i)]});
      else
        pin_to(usable);
      work(i);
    });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::inside() { return inside_region; }

ThreadPool::Pieces* ThreadPool::divide(int64_t pieces) const {
  thread_local std::vector<Pieces> shares;
  const auto count = static_cast<uint64_t>(size());
  if (shares.size() < count) shares = std::vector<Pieces>(count);
  uint64_t begin = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t end = static_cast<uint64_t>(pieces) * (i + 1) / count;
    shares[i].ends.store(begin | end << 32, std::memory_order_relaxed);
    begin = end;
  }
  return shares.data();
}

void ThreadPool::call(int thread) {
  inside_region = true;
  try {
    task_.call(task_.context, thread);
  } catch (...) {
    const std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
    failed_ = true;
  }
  inside_region = false;
}

void ThreadPool::run_task(Task task) {
  if (inside_region) {
    task.call(task.context, 0);
    return;
  }
  const std::lock_guard lock(region_);
  task_ = task;
  running_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  call(0);
  for (int i = 0; running_.load(std::memory_order_acquire) != 0; ++i) {
    if (i < spin_)
      relax();
    else
      std::this_thread::yield();
  }
  if (!failed_) return;
  failed_ = false;
  std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    for (int i = 0; i < spin_ && generation_.load(std::memory_order_acquire) == seen; ++i) relax();
    generation_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (stop_) return;
    call(thread);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace turboquant
