// The command as a whole, without the headers that its parts need.
#pragma once

namespace turboquant {

/// Exit codes: 0, 1 (error), 2 (usage), 130 (Ctrl-C).
int run_command(int argc, const char* const* argv);

}  // namespace turboquant
