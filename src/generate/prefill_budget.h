// How many tokens of prompts a step reads beside what it decodes, by the speed of the last steps.
#pragma once

#include <algorithm>
#include <cstdint>

namespace turboquant {

class PrefillBudget {
 public:
  /// `fixed`: tokens of a step beside decoding; 0: by speed.
  explicit PrefillBudget(int64_t fixed) : fixed_(fixed) {}

  /// Tokens for the next step.
  int64_t tokens(bool decoding) const {
    if (decoding && fixed_ > 0) return fixed_;
    if (seconds_per_token_ == 0) return decoding ? kFirst : kMost;
    const double seconds = decoding ? kBesideDecoding : kAlone;
    return std::clamp(static_cast<int64_t>(seconds / seconds_per_token_), kLeast, kMost);
  }
  /// What a step took in which so many tokens were decoded and others read.
  void measured(int64_t decoded, int64_t read, double seconds) {
    if (read == 0) {
      decode_seconds_ = decode_seconds_ == 0 ? seconds : (decode_seconds_ + seconds) / 2;
      return;
    }
    if (read < kLeast / 2) return;  // says nothing of the cost of a token
    const double reading = std::max(seconds - (decoded > 0 ? decode_seconds_ : 0), seconds / 8);
    const double now = reading / static_cast<double>(read);
    seconds_per_token_ = seconds_per_token_ == 0 ? now : std::max(now, (seconds_per_token_ + now) / 2);
  }

 private:
  // Of the 200 ms by which a step may grow, half: attention grows with the text, and a step may be slower than the
  // last.
  static constexpr double kBesideDecoding = 0.1;
  static constexpr double kAlone = 0.5;  // nothing waits but what is to be begun or cancelled
  static constexpr int64_t kLeast = 16, kFirst = 64, kMost = 512;

  int64_t fixed_;
  double seconds_per_token_ = 0;  // of prompts
  double decode_seconds_ = 0;     // of a step that reads none
};

}  // namespace turboquant
