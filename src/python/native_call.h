// How Python calls the library: without the GIL, one call of a model at a time, and Ctrl-C ends it.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "turboquant/interrupt.h"

namespace turboquant::python {

namespace nb = nanobind;

/// A model, with its caches, is used by one thread at a time; a callback of that thread may use it, too.
using ModelLock = std::recursive_timed_mutex;

/// Ends a call from another thread.
class Cancellation {
 public:
  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

 private:
  std::atomic<bool> cancelled_ = false;
};

/// What long work asks between two steps. Throws the exception of a Python signal handler (KeyboardInterrupt). Called
/// without the GIL.
class StopCheck {
 public:
  explicit StopCheck(const Cancellation* cancellation) : cancellation_(cancellation) {}
  bool operator()();

 private:
  const Cancellation* cancellation_;
  int64_t asked_ = 0;  // the clock when signals were last asked for
};

/// Waits for the lock; Ctrl-C ends that, too, and throws as StopCheck, cancellation with Interrupted. Called without
/// the GIL.
std::unique_lock<ModelLock> wait_for(ModelLock& lock, const Cancellation* cancellation);

/// Calls `work` without the GIL.
template <typename Work>
auto without_gil(Work&& work, const Cancellation* cancellation = nullptr) {
  const nb::gil_scoped_release release;
  const StopWhen stop{StopCheck(cancellation)};
  return work();
}

/// The same, alone with a model.
template <typename Work>
auto without_gil(const std::shared_ptr<ModelLock>& lock, Work&& work, const Cancellation* cancellation = nullptr) {
  return without_gil(
      [&] {
        const std::unique_lock held = wait_for(*lock, cancellation);
        return work();
      },
      cancellation);
}

}  // namespace turboquant::python
