// What the requests of a batch read for one another.
#include <algorithm>

#include "generate/running_batch.h"

namespace turboquant {
namespace {

constexpr int64_t kFew = 64;  // tokens that are sooner read again than waited for, or kept

}  // namespace

// Another request that is reading a beginning of this one's text, of more than `length` tokens, right now.
const Sequence* RunningBatch::leader_of(const Sequence& sequence, int64_t length) const {
  for (const auto& other : running_) {
    if (other.get() == &sequence) break;  // the oldest leads, so that none waits for itself
    if (other->parked || other->decoding()) continue;
    const int64_t common = common_tokens(sequence.findable(), other->text);
    if (common < length + kFew || common <= other->cache.length()) continue;
    if (!rules_.goes_back()) other->cuts.insert(common);
    return other.get();
  }
  return nullptr;
}

// Where the cache of a prompt is kept for others, if it cannot go back: where it parts from another text, at its end,
// and here and there. A copy of a state is not made for a few tokens.
void RunningBatch::make_cuts(Sequence& sequence, int64_t common) const {
  if (rules_.goes_back() || !use_prefixes_) return;
  const int64_t last = sequence.prompt_tokens() - 1, least = sequence.cache.length() + kFew;
  for (int64_t cut = rules_.spacing(); cut < last; cut += rules_.spacing()) sequence.cuts.insert(cut);
  if (last >= least) sequence.cuts.insert(last);
  if (common >= least && common < last) sequence.cuts.insert(common);
}

// Looks for what others have read. False: another one is about to read it.
bool RunningBatch::begin(Sequence& sequence) {
  if (sequence.begun) return true;
  PrefixCache::Match match;
  if (use_prefixes_) {
    match = prefixes_.find(sequence.findable());
    const Sequence* source = nullptr;
    int64_t length = match.length;
    for (const auto& other : running_) {
      const int64_t common = std::min(common_tokens(sequence.findable(), other->text), other->cache.length());
      match.common = std::max(match.common, common);
      if (common <= length) continue;
      const int64_t reached = other->cache.reach(common);
      if (reached <= length || !rules_.fits(other->cache, reached)) continue;
      length = reached;
      source = other.get();
    }
    if (leader_of(sequence, length) != nullptr) return false;
    if (source != nullptr) {
      sequence.cache = source->cache.fork();
      sequence.cache.trim(length);
    } else if (length > 0) {
      sequence.cache = prefixes_.take(match);
    }
    if (length > 0) memory_.add(rules_.bytes(1));  // the page that both will write to
  }
  sequence.begun = true;
  const int64_t found = std::min(sequence.cache.length(), sequence.prompt_tokens());
  if (sequence.result.completion_tokens == 0) {
    sequence.result.cached_tokens = found;
    ++(found > 0 ? totals_.prefix_hits : totals_.prefix_misses);
  }
  make_cuts(sequence, match.common);
  return true;
}

void RunningBatch::keep_at_cuts(Sequence& sequence) {
  const int64_t length = sequence.cache.length();
  const std::span<const int32_t> read = std::span(sequence.text).first(static_cast<size_t>(length));
  if (!sequence.cuts.contains(length) || prefixes_.find(read).length == length) return;
  prefixes_.insert(read, sequence.cache.fork());
  memory_.add(rules_.bytes(1));
}

}  // namespace turboquant
