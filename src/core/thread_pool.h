// A pool of pinned threads for regions of a few microseconds: workers spin for a while before they sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace turboquant {

class ThreadPool {
 public:
  /// `threads` counts the calling thread; 0 means one a processor that this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(thread) once on every thread, thread in [0, size()), and waits. The first exception is thrown again
  /// here. A call from inside a region runs on the calling thread alone.
  template <typename Body>
  void run(Body&& body) {
    using Function = std::remove_reference_t<Body>;
    run_task({[](void* context, int thread) { (*static_cast<Function*>(context))(thread); },
              const_cast<std::remove_const_t<Function>*>(&body)});
  }

  /// Calls body(begin, end) over [0, n) in pieces of `grain`; in one piece if there is one thread only. Every thread
  /// goes through pieces of its own from front to back, so that what it reads is one stream, and then takes others'
  /// from their back. After an exception no further pieces are begun.
  template <typename Body>
  void parallel_for(int64_t n, int64_t grain, Body&& body) {
    if (n <= grain || workers_.empty() || inside()) {
      if (n > 0) body(int64_t{0}, n);
      return;
    }
    Pieces* const pieces = divide((n + grain - 1) / grain);
    run([&](int thread) {
      for (int i = 0; i < size(); ++i) {
        Pieces& from = pieces[thread + i < size() ? thread + i : thread + i - size()];
        for (int64_t piece = 0; !failed_.load(std::memory_order_relaxed) && (piece = from.take(i == 0)) >= 0;)
          body(piece * grain, (piece + 1) * grain < n ? (piece + 1) * grain : n);
      }
    });
  }

 private:
  struct Task {
    void (*call)(void* context, int thread) = nullptr;
    void* context = nullptr;
  };

  /// The pieces of a loop that are left of a thread's share.
  struct alignas(64) Pieces {
    std::atomic<uint64_t> ends;  // the first in the lower half, behind the last in the upper

    /// The first, or the last; -1 if none is left.
    int64_t take(bool first) {
      uint64_t now = ends.load(std::memory_order_relaxed);
      while (true) {
        const uint64_t begin = now & 0xffffffff, end = now >> 32;
        if (begin >= end) return -1;
        const uint64_t then = first ? now + 1 : now - (uint64_t{1} << 32);
        if (ends.compare_exchange_weak(now, then, std::memory_order_relaxed))
          return static_cast<int64_t>(first ? begin : end - 1);
      }
    }
  };

  /// Whether the calling thread is in a region.
  static bool inside();
  /// Shares out so many pieces, fewer than 2^32, among all threads; in the calling thread's own memory, until its next
  /// call.
  Pieces* divide(int64_t pieces) const;
  void run_task(Task task);
  void work(int thread);
  void call(int thread);

  std::vector<std::thread> workers_;
  std::mutex region_;  // one region at a time
  Task task_;
  int spin_ = 0;
  std::exception_ptr error_;
  std::mutex error_mutex_;
  std::atomic<bool> failed_ = false;
  alignas(64) std::atomic<uint32_t> generation_ = 0;
  alignas(64) std::atomic<uint32_t> running_ = 0;
  std::atomic<bool> stop_ = false;
};

/// As many threads as were asked for, but no more than there are processors: they would only wait for each other.
std::shared_ptr<ThreadPool> make_thread_pool(int threads);

/// Pins the calling thread to the first processor that this process may use, as the pool pins its workers to the next
/// ones. For commands; a library leaves its host's thread alone.
void pin_calling_thread();
/// And undoes it: for threads that a pinned one has begun and that are no part of a pool.
void unpin_calling_thread();

}  // namespace turboquant
