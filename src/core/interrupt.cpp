#include "core/interrupt.h"

#include <csignal>

#include "turboquant/error.h"

namespace turboquant {
namespace {

volatile std::sig_atomic_t flag = 0;

void handle(int signal) {
  flag = 1;
  std::signal(signal, SIG_DFL);  // a second Ctrl-C ends the process at once
}

}  // namespace

void install_interrupt_handler() {
  std::signal(SIGINT, handle);
  std::signal(SIGTERM, handle);
}

bool interrupted() { return flag != 0; }

void check_interrupt() {
  if (interrupted()) throw Interrupted();
}

}  // namespace turboquant
