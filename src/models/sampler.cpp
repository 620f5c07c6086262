#include "models/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_set>

namespace turboquant {
namespace {

void check(bool good, const char* option, float value, const char* range) {
  if (!good) throw UsageError(std::string(option) + " " + std::to_string(value) + ": must be " + range);
}

}  // namespace

Sampler::Sampler(const GenerateOptions& options)
    : temperature_(options.temperature),
      top_p_(options.top_p),
      min_p_(options.min_p),
      penalty_(options.repetition_penalty),
      top_k_(static_cast<size_t>(std::max(options.top_k, 0))),
      random_(options.seed ? *options.seed : std::random_device()()) {
  check(temperature_ >= 0 && std::isfinite(temperature_), "--temp", temperature_, "0 or more");
  check(top_p_ > 0 && top_p_ <= 1, "--top-p", top_p_, "above 0 and at most 1");
  check(min_p_ >= 0 && min_p_ <= 1, "--min-p", min_p_, "between 0 and 1");
  check(penalty_ > 0 && std::isfinite(penalty_), "--repetition-penalty", penalty_, "above 0");
  check(options.top_k >= 0, "--top-k", static_cast<float>(options.top_k), "0 (off) or more");
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history) {
  if (temperature_ == 0 && penalty_ == 1)
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) candidates_[i] = {static_cast<int32_t>(i), logits[i]};
  if (penalty_ != 1)
    for (const int32_t token : std::unordered_set<int32_t>(history.begin(), history.end())) {
      float& value = candidates_[static_cast<size_t>(token)].value;
      value = value > 0 ? value / penalty_ : value * penalty_;
    }
  const auto less = [](const Candidate& a, const Candidate& b) { return a.value < b.value; };
  const Candidate best = *std::max_element(candidates_.begin(), candidates_.end(), less);
  if (temperature_ == 0) return best.token;

  if (top_k_ > 0 && top_k_ < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(top_k_), candidates_.end(),
                     [&](const Candidate& a, const Candidate& b) { return less(b, a); });
    candidates_.resize(top_k_);
  }
  double total = 0;
  for (Candidate& c : candidates_) {
    c.value = std::exp((c.value - best.value) / temperature_);
    total += c.value;
  }
  for (Candidate& c : candidates_) c.value = static_cast<float>(c.value / total);
  if (top_p_ < 1) keep_nucleus();
  if (min_p_ > 0) {
    const float least = min_p_ * std::max_element(candidates_.begin(), candidates_.end(), less)->value;
    std::erase_if(candidates_, [=](const Candidate& c) { return c.value < least; });
  }
  total = 0;
  for (const Candidate& c : candidates_) total += c.value;
  double left = static_cast<double>(random_() >> 11) * 0x1p-53 * total;
  for (const Candidate& c : candidates_) {
    left -= c.value;
    if (left < 0) return c.token;
  }
  return best.token;
}

// The most likely tokens whose probabilities reach top_p: popped from a heap, as they are few among many.
void Sampler::keep_nucleus() {
  const auto less = [](const Candidate& a, const Candidate& b) { return a.value < b.value; };
  std::make_heap(candidates_.begin(), candidates_.end(), less);
  double sum = 0;
  auto end = candidates_.end();
  while (end != candidates_.begin() && sum < top_p_) {
    std::pop_heap(candidates_.begin(), end, less);
    --end;
    sum += end->value;
  }
  candidates_.erase(candidates_.begin(), end);
}

}  // namespace turboquant
