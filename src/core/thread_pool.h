// A pool of pinned threads for regions of a few microseconds: workers spin for a while before they sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
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

  /// Calls body(begin, end) over [0, n) in pieces of `grain`, handed to whichever thread is free; in one piece if there
  /// is one thread only. After an exception no further pieces are begun.
  template <typename Body>
  void parallel_for(int64_t n, int64_t grain, Body&& body) {
    if (n <= grain || workers_.empty()) {
      if (n > 0) body(int64_t{0}, n);
      return;
    }
    std::atomic<int64_t> next = 0;
    run([&](int) {
      for (int64_t begin = 0;
           !failed_.load(std::memory_order_relaxed) && (begin = next.fetch_add(grain, std::memory_order_relaxed)) < n;)
        body(begin, begin + grain < n ? begin + grain : n);
    });
  }

 private:
  struct Task {
    void (*call)(void* context, int thread) = nullptr;
    void* context = nullptr;
  };

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

/// Pins the calling thread to the first processor that this process may use, as the pool pins its workers to the next
/// ones. For commands; a library leaves its host's thread alone.
void pin_calling_thread();

}  // namespace turboquant
