// The part of `evaluate` that looks for keys: --needle.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "turboquant/evaluate.h"

namespace turboquant {

/// Adds --needle, which sets `asked`, and its options; gives back --needle.
CLI::Option* add_needle_options(CLI::App& command, NeedleOptions& options, bool& asked);
/// Runs, prints, and writes the files that have a name.
void run_needle(const NeedleOptions& options, const std::string& json, const std::string& plot);

}  // namespace turboquant
