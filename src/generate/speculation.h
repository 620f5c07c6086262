// A text token by token, with drafts that are checked several at once. The logits are, to the last bit, those of
// reading every token alone: Model::forward() gives a token the same whatever comes with it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "generate/drafter.h"
#include "generate/state.h"

namespace turboquant {

/// The most tokens of a draft: as many as every compressed cache can go back.
constexpr int kMostDrafts = 64;

class Speculation {
 public:
  /// `drafter`: null: no drafts. `longest`: tokens of one draft.
  Speculation(KvCache::State& cache, std::unique_ptr<Drafter> drafter, int longest);

  /// Logits [vocab_size] behind the last token of `history`, which is the one of the call before and one more token. At
  /// most `most` tokens are drafted behind it.
  std::span<const float> next(std::span<const int32_t> history, int64_t most);
  /// Forgets drafts that did not come true. The cache then remembers `history`, but for its last token at most.
  void finish(std::span<const int32_t> history);

  int64_t drafted() const { return drafted_; }
  int64_t accepted() const { return accepted_; }

 private:
  std::span<const float> row(size_t index) const;
  void forget_drafts();
  int64_t room(int64_t most, size_t pending) const;

  KvCache::State& cache_;
  std::unique_ptr<Drafter> drafter_;
  int64_t longest_, length_;     // of a draft, and of the next one
  Tensor logits_;                // F32 [1 + drafts, vocab_size]
  std::vector<int32_t> drafts_;  // what the last step read behind the history
  size_t right_ = 0;             // of these, that came true
  std::optional<Cache> before_;  // the cache before them, if it cannot go back
  std::vector<int32_t> tokens_before_;
  int64_t drafted_ = 0, accepted_ = 0;
};

}  // namespace turboquant
