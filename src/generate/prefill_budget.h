// How many tokens of prompts a step reads beside what it decodes, by the speed of the last steps.
#pragma once

#include <algorithm>
#include <cstdint>

namespace turboquant {

/// A step takes seconds = base + tokens * seconds_per_token, decoded tokens or read ones: the base is the reading of
/// the weights, the rest arithmetic. Both are a least-squares fit to the steps so far, the last ones weighing most.
class PrefillBudget {
 public:
  /// `fixed`: tokens of a step beside decoding; 0: by speed.
  explicit PrefillBudget(int64_t fixed) : fixed_(fixed) {}

  /// Tokens of prompts for the next step.
  int64_t tokens(bool decoding) const {
    if (decoding && fixed_ > 0) return fixed_;
    if (seconds_per_token_ == 0) return kFirst;
    const double seconds = decoding ? kBesideDecoding : kAlone;
    return std::clamp(static_cast<int64_t>(seconds / seconds_per_token_), int64_t{1}, kMost);
  }
  /// What a step with so many tokens, of all kinds, took.
  void measured(int64_t tokens, double seconds) {
    const auto count = static_cast<double>(tokens);
    if (tokens == 0) return;
    weight_ = kKeep * weight_ + 1;
    const double from_mean = count - mean_tokens_;
    mean_tokens_ += from_mean / weight_;
    mean_seconds_ += (seconds - mean_seconds_) / weight_;
    variance_ = kKeep * variance_ + from_mean * (count - mean_tokens_);
    covariance_ = kKeep * covariance_ + from_mean * (seconds - mean_seconds_);
    const double most = seconds / count;  // without a base
    // Steps that are all alike say nothing of the slope: then the last one is kept.
    const double before = seconds_per_token_ == 0 ? most : seconds_per_token_;
    seconds_per_token_ = std::clamp((covariance_ + kInertia * before) / (variance_ + kInertia), most / 8, most);
  }

 private:
  // Of the 200 ms by which a step may grow, half: attention grows with the text, and a step may be slower than the
  // last.
  static constexpr double kBesideDecoding = 0.1;
  static constexpr double kAlone = 0.5;  // nothing waits but what is to be begun or cancelled
  static constexpr int64_t kFirst = 16, kMost = 512;
  static constexpr double kKeep = 0.95, kInertia = 64;

  int64_t fixed_;
  double weight_ = 0, mean_tokens_ = 0, mean_seconds_ = 0, variance_ = 0, covariance_ = 0;
  double seconds_per_token_ = 0;
};

}  // namespace turboquant
