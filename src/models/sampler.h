// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "models/logits.h"
#include "turboquant/language_model.h"

namespace turboquant {

/// Bias, penalties, temperature, top-k, top-p, min-p, in this order, as transformers applies them. What is drawn with a
/// seed depends on nothing else than the logits and the tokens so far.
class Sampler {
 public:
  /// UsageError for values out of range.
  explicit Sampler(const SamplingOptions& options);

  /// `history`: the tokens so far, prompt included, for the repetition penalty; those from `answer` on are counted by
  /// the presence and the frequency penalty. UsageError: a bias for a token without a logit.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history, size_t answer = 0);

 private:
  std::span<const float> adjust(std::span<const float> logits, std::span<const int32_t> history, size_t answer);
  void choose_candidates(std::span<const float> values, float best);
  void keep_nucleus(double sum);
  int32_t draw(std::span<const float> values, float best, double random);

  float temperature_, top_p_, min_p_, repetition_, presence_, frequency_;
  size_t top_k_;
  std::vector<std::pair<int32_t, float>> bias_;
  std::mt19937_64 random_;
  std::vector<float> values_;           // logits with bias and penalties
  std::vector<int32_t> counts_;         // of each token, in between zeros
  std::vector<TokenValue> candidates_;  // with logits, then with weights: e^((logit - best) / temperature)
};

}  // namespace turboquant
