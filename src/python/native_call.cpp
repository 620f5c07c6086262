#include "python/native_call.h"

#include <chrono>

namespace turboquant::python {
namespace {

// Python's own threads wait for the GIL while it is held: not at every step of a small model.
constexpr auto kBetweenSignals = std::chrono::milliseconds(20);

int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

}  // namespace

bool StopCheck::operator()() {
  if (cancellation_ != nullptr && cancellation_->cancelled()) return true;
  const int64_t time = now();
  if (time - asked_ < std::chrono::steady_clock::duration(kBetweenSignals).count()) return false;
  asked_ = time;
  const nb::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  return false;
}

std::unique_lock<ModelLock> wait_for(ModelLock& lock, const Cancellation* cancellation) {
  std::unique_lock held(lock, std::defer_lock);
  StopCheck check(cancellation);
  while (!held.try_lock_for(kBetweenSignals))
    if (check()) throw Interrupted();
  return held;
}

}  // namespace turboquant::python
