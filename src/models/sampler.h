// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "turboquant/language_model.h"

namespace turboquant {

/// Repetition penalty, temperature, top-k, top-p, min-p, in this order, as transformers applies them.
class Sampler {
 public:
  /// UsageError for values out of range.
  explicit Sampler(const GenerateOptions& options);

  /// `history`: the tokens so far, prompt included, for the repetition penalty.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history);

 private:
  struct Candidate {
    int32_t token;
    float value;  // logit, then probability
  };
  void keep_nucleus();

  float temperature_, top_p_, min_p_, penalty_;
  size_t top_k_;
  std::mt19937_64 random_;
  std::vector<Candidate> candidates_;
};

}  // namespace turboquant
