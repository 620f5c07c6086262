// Guesses at the next tokens of a text, which the model then checks in one step (Leviathan et al. 2023, "Fast inference
// from transformers via speculative decoding").
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "generate/state.h"

namespace turboquant {

class Drafter {
 public:
  virtual ~Drafter() = default;
  /// What may follow `history`: `most` tokens at most, or none.
  virtual std::vector<int32_t> propose(std::span<const int32_t> history, int64_t most) = 0;
};

/// What followed where the text's last tokens stood before: prompt lookup. For answers that repeat their prompt.
std::unique_ptr<Drafter> make_ngram_drafter();

/// What another, smaller model writes, of the tokens below `vocab_size`. They must mean the same to it; the caller sees
/// to that.
std::unique_ptr<Drafter> make_model_drafter(const std::shared_ptr<LanguageModel::State>& model, int64_t vocab_size);

}  // namespace turboquant
