// Stop strings in a stream of text: a piece that may be the beginning of one is held back until it is decided.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace turboquant {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
    std::erase_if(strings_, [](const std::string& s) { return s.empty(); });
  }

  /// The text that may be given out now; all that comes before a stop string once it is found.
  std::string add(std::string_view text) {
    if (found_) return "";
    held_ += text;
    size_t first = std::string::npos;
    for (const std::string& s : strings_) first = std::min(first, held_.find(s));
    if (first != std::string::npos) {
      found_ = true;
      return held_.substr(0, first);
    }
    size_t keep = 0;
    for (const std::string& s : strings_)
      for (size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n)
        if (held_.ends_with(std::string_view(s).substr(0, n))) keep = n;
    std::string out = held_.substr(0, held_.size() - keep);
    held_.erase(0, out.size());
    return out;
  }
  /// What was held back, at the end of the text.
  std::string finish() { return found_ ? "" : std::exchange(held_, ""); }
  bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

}  // namespace turboquant
