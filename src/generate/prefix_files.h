// The prefix cache on disk: a file of a KV cache (cache_file.h) for each of those that were used most, so that a new
// process need not read the same prompts again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "generate/prefix_cache.h"
#include "generate/state.h"

namespace turboquant {

using Message = std::function<void(const std::string&)>;

class PrefixFiles {
 public:
  /// `say` gets what goes wrong, which is never more than a line.
  PrefixFiles(std::filesystem::path folder, std::shared_ptr<LanguageModel::State> model, Message say);

  /// Takes in the files of this model and these settings. What is damaged is said and left alone.
  void load(PrefixCache& prefixes);
  /// Writes the caches that were used most, at most `most` bytes of them, in the place of all others of this model and
  /// these settings.
  void save(const PrefixCache& prefixes, uint64_t most);

 private:
  std::string name_of(const std::vector<int32_t>& tokens) const;
  std::vector<std::filesystem::path> files() const;
  template <typename Work>
  void carefully(const Work& work);

  std::filesystem::path folder_;
  std::shared_ptr<LanguageModel::State> model_;
  Message say_;
  std::string beginning_;       // of its files' names
  std::set<std::string> good_;  // names of files that need not be written again
};

}  // namespace turboquant
