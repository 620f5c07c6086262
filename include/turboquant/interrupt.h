// Stopping long work from outside: another language's Ctrl-C, a button, a client that hung up.
#pragma once

#include <functional>

#include "turboquant/error.h"

namespace turboquant {

/// While it lives, long work that this thread asks of the library calls `stop` between two steps, every few
/// milliseconds at most. If that returns true, the work ends: with Interrupted, or, of generate() that has begun to
/// write, with what it has ("cancelled"). What `stop` throws comes out of the work instead. The innermost one counts.
class StopWhen {
 public:
  explicit StopWhen(std::function<bool()> stop);
  ~StopWhen();
  StopWhen(const StopWhen&) = delete;
  StopWhen& operator=(const StopWhen&) = delete;

  bool asks_to_stop() const { return stop_(); }

 private:
  std::function<bool()> stop_;
  const StopWhen* outer_;
};

}  // namespace turboquant
