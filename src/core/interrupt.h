// Ctrl-C: the handler sets a flag, long work asks for it between two steps and unwinds, cleaning up as it goes.
#pragma once

namespace turboquant {

/// Installs the SIGINT and SIGTERM handler (commands only; a library must not take its host's signals), and one for
/// SIGBUS: a mapped file that is cut while it is read ends the process with a line that says so, and exit code 1.
void install_interrupt_handler();
bool interrupted();
/// Throws Interrupted if the flag is set.
void check_interrupt();
/// For programs that go on after Ctrl-C: from now on a second one does not end the process, but SIGTERM does, at once.
void survive_interrupts();
/// Ctrl-C has been dealt with.
void clear_interrupt();

}  // namespace turboquant
