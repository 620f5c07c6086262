#include "core/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <string_view>

#include "turboquant/error.h"

namespace turboquant {
namespace {

volatile std::sig_atomic_t flag = 0;
volatile std::sig_atomic_t surviving = 0;

void handle(int signal) {
  flag = 1;
  if (surviving == 0) std::signal(signal, SIG_DFL);  // a second Ctrl-C ends the process at once
}

void handle_bus_error(int) {
  constexpr std::string_view kText =
      "error: a file of the model was cut, or cannot be read any more, while it was in use; check the disk and the "
      "files, and run the command again\n";
  if (::write(STDERR_FILENO, kText.data(), kText.size()) < 0) ::_exit(1);  // nothing more can be said
  ::_exit(1);
}

}  // namespace

void install_interrupt_handler() {
  std::signal(SIGINT, handle);
  std::signal(SIGTERM, handle);
  std::signal(SIGBUS, handle_bus_error);
}

bool interrupted() { return flag != 0; }

void check_interrupt() {
  if (interrupted()) throw Interrupted();
}

void survive_interrupts() {
  surviving = 1;
  std::signal(SIGTERM, SIG_DFL);
}

void clear_interrupt() { flag = 0; }

}  // namespace turboquant
