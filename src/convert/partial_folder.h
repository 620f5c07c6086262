// The folder that a conversion writes to before it has its final name, and the journal that lets another run go on.
#pragma once

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "core/clock.h"
#include "io/checkpoint.h"

namespace turboquant {

/// ".NAME.partial" beside the final folder NAME. It has no config.json until all is written, so that nobody takes it
/// for a model, and one process at a time owns it. Destroyed before keep(), it is removed, unless it may be resumed.
/// What a killed process leaves stays until the next conversion to the same name, which resumes or replaces it.
class PartialFolder {
 public:
  /// Error: the final folder exists, another process is writing it, the folder cannot be made.
  PartialFolder(const std::filesystem::path& final, bool resume);
  ~PartialFolder();
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Before the first file is written. `fingerprint`: one line that says what is converted and how. Returns the tensors
  /// that an earlier run has written, none without `resume`. Error: an earlier run had another fingerprint.
  std::set<std::string> begin(const std::string& fingerprint);
  /// True if the leftover of an earlier run was removed.
  bool replaced() const { return replaced_; }

  /// Notes a tensor as written. From time to time `sync` is called, to bring the files to the disk before the journal
  /// says so. Safe to call from several threads.
  template <typename Sync>
  void add(const std::string& tensor, Sync&& sync) {
    const std::lock_guard lock(mutex_);
    pending_.push_back(tensor);
    if (!due()) return;
    const auto start = Clock::now();
    sync();
    append_pending();
    // Waiting for the disk shall take a small part of the time.
    next_ = Clock::now() + std::max<Clock::duration>(kShortest, 20 * (Clock::now() - start));
  }

  /// Removes the journal, and gives the folder its final name.
  void keep();

 private:
  static constexpr std::chrono::milliseconds kShortest{20};  // between two entries

  void remove() const;
  bool due() const { return Clock::now() >= next_; }
  void append(const std::string& text) const;
  void append_pending();
  std::set<std::string> read_journal(const std::string& fingerprint) const;

  std::filesystem::path path_, final_, journal_;
  bool resumable_;
  bool is_new_ = false, begun_ = false, replaced_ = false;
  std::vector<std::filesystem::path> made_;  // parents that were not there, the innermost first
  int fd_ = -1;                              // of the journal, locked
  std::mutex mutex_;
  std::vector<std::string> pending_;
  Clock::time_point next_ = Clock::now() + kShortest;
};

/// Size and time of the files of a model, as one line: another content has another line.
std::string files_fingerprint(const std::filesystem::path& model);

}  // namespace turboquant
