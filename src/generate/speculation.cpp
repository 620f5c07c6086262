#include "generate/speculation.h"

#include <algorithm>

namespace turboquant {
namespace {

constexpr int64_t kFirstDraft = 4;

// Keys and values of a token can be dropped; a state of linear attention and a window that moved on cannot go back.
bool goes_back(const Cache& cache) {
  return std::all_of(cache.memory.begin(), cache.memory.end(),
                     [](const LayerMemory& layer) { return layer.state_floats == 0 && layer.window == 0; });
}

}  // namespace

Speculation::Speculation(KvCache::State& cache, std::unique_ptr<Drafter> drafter, int longest)
    : cache_(cache),
      drafter_(std::move(drafter)),
      longest_(longest),
      length_(std::min<int64_t>(longest, kFirstDraft)) {}

std::span<const float> Speculation::row(size_t index) const {
  const int64_t vocab = logits_.dim(1);
  return {logits_.data<float>() + static_cast<int64_t>(index) * vocab, static_cast<size_t>(vocab)};
}

// The last step's drafts that did not come true.
void Speculation::forget_drafts() {
  const size_t wrong = drafts_.size() - right_;
  if (wrong > 0) {
    if (before_) {
      cache_.cache = std::move(*before_);
      cache_.tokens = std::move(tokens_before_);
    } else {
      cache_.trim(static_cast<int64_t>(cache_.tokens.size() - wrong));
    }
    length_ = std::clamp<int64_t>(static_cast<int64_t>(right_) + 1, 1, longest_);
  } else if (!drafts_.empty()) {
    length_ = std::min(2 * length_, longest_);
  }
  before_.reset();
  drafts_.clear();
  right_ = 0;
}

// A cache that is compressed at some length must not reach it by drafts.
int64_t Speculation::room(int64_t most, size_t pending) const {
  most = std::min(most, length_);
  if (!cache_.to_be_compressed() || cache_.options.start < 0) return most;
  return std::min(most, cache_.options.start - 1 - static_cast<int64_t>(cache_.tokens.size() + pending));
}

std::span<const float> Speculation::next(std::span<const int32_t> history, int64_t most) {
  if (right_ < drafts_.size() && history.back() == drafts_[right_]) {
    ++accepted_;
    return row(++right_);
  }
  forget_drafts();
  // After going back to `before_`, what came true of the drafts is read again with the next ones.
  const std::span<const int32_t> pending = history.subspan(cache_.tokens.size());
  std::vector<int32_t> input(pending.begin(), pending.end());
  if (const int64_t count = drafter_ ? room(most, pending.size()) : 0; count > 0)
    drafts_ = drafter_->propose(history, count);
  if (!drafts_.empty()) {
    drafted_ += static_cast<int64_t>(drafts_.size());
    input.insert(input.end(), drafts_.begin(), drafts_.end());
    if (!goes_back(cache_.cache)) {
      before_ = cache_.cache.fork();
      tokens_before_ = cache_.tokens;
    }
  }
  logits_ = cache_.read(input, 1 + static_cast<int64_t>(drafts_.size()));
  return row(0);
}

void Speculation::finish(std::span<const int32_t> history) {
  forget_drafts();
  const std::span<const int32_t> wanted = history.first(history.size() - 1);
  if (wanted.size() > cache_.tokens.size()) cache_.read(wanted.subspan(cache_.tokens.size()));
}

}  // namespace turboquant
