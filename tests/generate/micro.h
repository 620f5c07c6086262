// The micro model as a folder of its own, to be changed; its random weights speak no language, but always the same.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "io/files.h"
#include "io/temp_folder.h"
#include "models/forward.h"
#include "turboquant/language_model.h"

namespace turboquant {

inline const std::filesystem::path kMicro = kTestData / "micro/llama";
inline const std::string kPrompt = "The quick brown fox jumps over the lazy dog";

/// A copy whose weights are a link.
class MicroCopy {
 public:
  MicroCopy() {
    for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
      std::filesystem::copy(kMicro / name, folder_ / name);
    std::filesystem::create_symlink(kMicro / "model.safetensors", folder_ / "model.safetensors");
  }

  const std::filesystem::path& path() const { return folder_.path(); }
  void write(const std::string& name, const std::string& text) { write_text(folder_ / name, text); }
  void change(const std::string& name, const std::function<void(nlohmann::json&)>& with) {
    nlohmann::json json = read_json(folder_ / name);
    with(json);
    write(name, json.dump());
  }
  void remove(const std::string& name) { std::filesystem::remove(folder_ / name); }

 private:
  TempFolder folder_;
};

/// tokens[begin, end).
inline std::vector<int32_t> part(const std::vector<int32_t>& tokens, size_t begin, size_t end) {
  return {tokens.begin() + static_cast<std::ptrdiff_t>(begin), tokens.begin() + static_cast<std::ptrdiff_t>(end)};
}

inline LanguageModel load_micro(const std::filesystem::path& path = kMicro, LoadOptions options = {}) {
  options.threads = 2;
  return LanguageModel::load(path.string(), options);
}

}  // namespace turboquant
