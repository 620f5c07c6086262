// What the commands that write text have in common: a model, how it is loaded, how it writes.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "turboquant/language_model.h"

namespace turboquant {

struct WriterOptions {
  std::string model, draft_model;
  LoadOptions load;
  GenerateOptions generate;
  bool fast = false;
};

/// Each is declared with the value in `options` as its default.
void add_writer_options(CLI::App& command, WriterOptions& options);

/// The loaded model, and what it is to be asked for.
struct Writer {
  explicit Writer(const WriterOptions& with);
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  LanguageModel model;
  std::optional<LanguageModel> draft;
  GenerateOptions options;
};

}  // namespace turboquant
