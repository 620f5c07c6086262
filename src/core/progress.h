// Progress bars on standard error, for long work on a terminal. Silent when piped or quiet.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace turboquant {

/// Turns all bars off (`--quiet`; the library's default).
void set_progress_enabled(bool enabled);
/// The default of the command: on if standard error is a terminal.
bool progress_possible();

class Progress {
 public:
  enum class Unit { items, bytes };

  /// `label` stands before the bar; `total` in items or bytes.
  Progress(std::string label, int64_t total, Unit unit = Unit::items);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Adds to what is done and redraws at most ten times a second. One thread at a time.
  void advance(int64_t amount = 1);
  /// Counts what was done before this run: it is part of the bar and not of the speed.
  void skip(int64_t amount);

 private:
  void draw();

  std::string label_;
  int64_t total_;
  int64_t done_ = 0;
  int64_t skipped_ = 0;
  Unit unit_;
  bool visible_;
  std::chrono::steady_clock::time_point start_, drawn_;
};

}  // namespace turboquant
