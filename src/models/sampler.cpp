#include "models/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace turboquant {
namespace {

constexpr size_t kDrawBlock = 1024;  // tokens whose weights are looked at together

void check(bool good, const char* option, float value, const char* range) {
  if (!good) throw UsageError(std::string(option) + " " + std::to_string(value) + ": must be " + range);
}

/// An order without equals, so that heaps do the same everywhere.
bool less(const TokenValue& a, const TokenValue& b) {
  return a.value != b.value ? a.value < b.value : a.token > b.token;
}

double sum_of(const std::vector<TokenValue>& candidates) {
  double sum = 0;
  for (const TokenValue& c : candidates) sum += c.value;
  return sum;
}

void to_weights(std::vector<TokenValue>& candidates, float best, float temperature) {
  for (TokenValue& c : candidates) {
    const float logit = c.value;
    weights({&logit, 1}, best, temperature, &c.value);
  }
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options)
    : temperature_(options.temperature),
      top_p_(options.top_p),
      min_p_(options.min_p),
      repetition_(options.repetition_penalty),
      presence_(options.presence_penalty),
      frequency_(options.frequency_penalty),
      top_k_(static_cast<size_t>(std::max(options.top_k, 0))),
      bias_(options.logit_bias),
      random_(options.seed ? *options.seed : std::random_device()()) {
  check(temperature_ >= 0 && std::isfinite(temperature_), "--temp", temperature_, "0 or more");
  check(top_p_ > 0 && top_p_ <= 1, "--top-p", top_p_, "above 0 and at most 1");
  check(min_p_ >= 0 && min_p_ <= 1, "--min-p", min_p_, "between 0 and 1");
  check(repetition_ > 0 && std::isfinite(repetition_), "--repetition-penalty", repetition_, "above 0");
  check(std::abs(presence_) <= 2, "presence penalty", presence_, "between -2 and 2");
  check(std::abs(frequency_) <= 2, "frequency penalty", frequency_, "between -2 and 2");
  check(options.top_k >= 0, "--top-k", static_cast<float>(options.top_k), "0 (off) or more");
  for (const auto& [token, bias] : bias_)
    check(bias < std::numeric_limits<float>::infinity(), "bias of a logit", bias, "a number");
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history, size_t answer) {
  const std::span<const float> values = adjust(logits, history, answer);
  const float best = largest(values);
  if (temperature_ == 0) return static_cast<int32_t>(std::find(values.begin(), values.end(), best) - values.begin());
  const double random = static_cast<double>(random_() >> 11) * 0x1p-53;
  if (top_k_ == 0 && top_p_ == 1 && min_p_ == 0) return draw(values, best, random);
  choose_candidates(values, best);
  double left = random * sum_of(candidates_);
  for (const TokenValue& c : candidates_) {
    left -= c.value;
    if (left < 0) return c.token;
  }
  return std::max_element(candidates_.begin(), candidates_.end(), less)->token;  // rounding left something over
}

std::span<const float> Sampler::adjust(std::span<const float> logits, std::span<const int32_t> history, size_t answer) {
  const bool counting = presence_ != 0 || frequency_ != 0;
  if (bias_.empty() && repetition_ == 1 && !counting) return logits;
  values_.assign(logits.begin(), logits.end());
  for (const auto& [token, bias] : bias_) {
    if (token < 0 || static_cast<size_t>(token) >= values_.size())
      throw UsageError("bias of a logit: token " + std::to_string(token) + " is not in the vocabulary");
    values_[static_cast<size_t>(token)] += bias;
  }
  counts_.resize(values_.size());
  if (repetition_ != 1) {
    for (const int32_t token : history) {
      if (counts_[static_cast<size_t>(token)]++ > 0) continue;
      float& value = values_[static_cast<size_t>(token)];
      value = value > 0 ? value / repetition_ : value * repetition_;
    }
    for (const int32_t token : history) counts_[static_cast<size_t>(token)] = 0;
  }
  if (!counting) return values_;
  const std::span<const int32_t> written = history.subspan(std::min(answer, history.size()));
  for (const int32_t token : written) ++counts_[static_cast<size_t>(token)];
  for (const int32_t token : written) {
    int32_t& count = counts_[static_cast<size_t>(token)];
    if (count > 0) values_[static_cast<size_t>(token)] -= presence_ + frequency_ * static_cast<float>(count);
    count = 0;
  }
  return values_;
}

// Of all tokens, by the sums of blocks first: no weight is kept.
int32_t Sampler::draw(std::span<const float> values, float best, double random) {
  std::vector<double> sums;
  double total = 0;
  for (size_t begin = 0; begin < values.size(); begin += kDrawBlock) {
    sums.push_back(
        sum_of_weights(values.subspan(begin, std::min(kDrawBlock, values.size() - begin)), best, temperature_));
    total += sums.back();
  }
  double left = random * total;
  size_t block = 0;
  while (block + 1 < sums.size() && left >= sums[block]) left -= sums[block++];
  while (block > 0 && sums[block] == 0) --block;  // rounding left something over
  const std::span<const float> chosen =
      values.subspan(block * kDrawBlock, std::min(kDrawBlock, values.size() - block * kDrawBlock));
  float weight[kDrawBlock];
  weights(chosen, best, temperature_, weight);
  size_t last = 0;
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (weight[i] == 0) continue;
    last = i;
    left -= weight[i];
    if (left < 0) break;
  }
  return static_cast<int32_t>(block * kDrawBlock + last);
}

// Weights of the tokens that top-k, top-p and min-p leave, in the order of the tokens.
void Sampler::choose_candidates(std::span<const float> values, float best) {
  // Tokens more than this below the best one are left out by min-p; a little more than that, for rounding.
  const float relevant = min_p_ > 0 ? 1e-3F - std::log(min_p_) : std::numeric_limits<float>::infinity();
  const auto least = [&](float below) { return best - below * temperature_; };
  candidates_.clear();
  if (top_k_ > 0 && top_k_ < values.size()) {
    candidates_ = largest_tokens(values, top_k_);
    to_weights(candidates_, best, temperature_);
    if (top_p_ < 1) keep_nucleus(top_p_ * sum_of(candidates_));
  } else if (top_p_ < 1) {
    // The nucleus is looked for among few tokens first.
    const double wanted = top_p_ * sum_of_weights(values, best, temperature_);
    for (float below = 2;; below *= 2) {
      const bool all = below > 64;
      candidates_.clear();
      tokens_above(values, all && min_p_ == 0 ? -std::numeric_limits<float>::max() : least(std::min(below, relevant)),
                   candidates_);
      to_weights(candidates_, best, temperature_);
      if (all || below >= relevant || sum_of(candidates_) >= wanted) break;
    }
    keep_nucleus(wanted);
  } else {
    tokens_above(values, least(relevant), candidates_);
    to_weights(candidates_, best, temperature_);
  }
  if (min_p_ > 0) std::erase_if(candidates_, [&](const TokenValue& c) { return c.value < min_p_; });
}

// The most likely tokens whose weights reach `sum`: popped from a heap, as they are few among many.
void Sampler::keep_nucleus(double sum) {
  std::make_heap(candidates_.begin(), candidates_.end(), less);
  double reached = 0;
  auto end = candidates_.end();
  while (end != candidates_.begin() && reached < sum) {
    std::pop_heap(candidates_.begin(), end, less);
    --end;
    reached += end->value;
  }
  candidates_.erase(candidates_.begin(), end);
  std::sort(candidates_.begin(), candidates_.end(),
            [](const TokenValue& a, const TokenValue& b) { return a.token < b.token; });
}

}  // namespace turboquant
