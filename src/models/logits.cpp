#include "models/logits.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace turboquant {
namespace {

constexpr size_t kLanes = 16;       // results side by side, so that the compiler may use vectors
constexpr size_t kSumBlock = 1024;  // values whose weights are summed up in floats

/// e^x for x <= 0, without branches: x = n ln 2 + r, and a polynomial in r (Taylor's, of degree 7, where |r| < 0.35).
inline float exp_below_zero(float x) {
  constexpr float kLeast = -87, kLog2E = 1.44269504F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912;  // 1.5 * 2^23: adding it rounds to a whole number
  const float bounded = x > kLeast ? x : kLeast;
  const float shifted = bounded * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (bounded - n * kLn2High) - n * kLn2Low;
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1;
  p = p * r + 1;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound)) << 23;
  const auto power = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + exponent);
  return x > kLeast ? power : 0;
}

/// The value of rank `count`, the largest first; 0 < count < values.size().
float value_of_rank(std::span<const float> values, size_t count) {
  constexpr size_t kFew = 1024, kStep = 64;
  if (count > kFew) {
    std::vector<float> all(values.begin(), values.end());
    const auto at = all.begin() + static_cast<std::ptrdiff_t>(count) - 1;
    std::nth_element(all.begin(), at, all.end(), std::greater<>());
    return *at;
  }
  std::vector<float> heap(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count));  // the least on top
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  for (size_t begin = count; begin < values.size(); begin += kStep) {
    const std::span<const float> step = values.subspan(begin, std::min(kStep, values.size() - begin));
    if (largest(step) <= heap.front()) continue;  // true of most
    for (const float value : step) {
      if (value <= heap.front()) continue;
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      heap.back() = value;
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  return heap.front();
}

}  // namespace

float largest(std::span<const float> values) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (size_t k = 0; k < kLanes; ++k) lanes[k] = values[i + k] > lanes[k] ? values[i + k] : lanes[k];
  for (; i < values.size(); ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

void weights(std::span<const float> values, float best, float temperature, float* out) {
  for (size_t i = 0; i < values.size(); ++i) out[i] = exp_below_zero((values[i] - best) / temperature);
}

double sum_of_weights(std::span<const float> values, float best, float temperature) {
  double total = 0;
  float block[kSumBlock];
  for (size_t begin = 0; begin < values.size(); begin += kSumBlock) {
    const size_t count = std::min(kSumBlock, values.size() - begin);
    std::fill(block + count, block + (count + kLanes - 1) / kLanes * kLanes, 0.0F);
    weights(values.subspan(begin, count), best, temperature, block);
    float lanes[kLanes] = {};
    for (size_t i = 0; i < count; i += kLanes)
      for (size_t k = 0; k < kLanes; ++k) lanes[k] += block[i + k];
    for (const float lane : lanes) total += lane;
  }
  return total;
}

double log_sum_exp(std::span<const float> logits) {
  const float best = largest(logits);
  return best + std::log(sum_of_weights(logits, best, 1));
}

void tokens_above(std::span<const float> values, float least, std::vector<TokenValue>& tokens) {
  constexpr size_t kStep = 64;
  for (size_t begin = 0; begin < values.size(); begin += kStep) {
    const std::span<const float> step = values.subspan(begin, std::min(kStep, values.size() - begin));
    if (largest(step) < least) continue;
    for (size_t i = 0; i < step.size(); ++i)
      if (step[i] >= least) tokens.push_back({static_cast<int32_t>(begin + i), step[i]});
  }
}

std::vector<TokenValue> largest_tokens(std::span<const float> values, size_t count) {
  std::vector<TokenValue> tokens;
  if (count == 0) return tokens;
  const float least = count < values.size() ? value_of_rank(values, count) : -std::numeric_limits<float>::infinity();
  tokens_above(values, least, tokens);
  // Of those that equal the last one there may be too many.
  auto surplus = tokens.size() - std::min(tokens.size(), count);
  for (size_t i = tokens.size(); surplus > 0 && i-- > 0;) {
    if (tokens[i].value != least) continue;
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(i));
    --surplus;
  }
  return tokens;
}

Top top_of(const float* logits, const float* probabilities, int64_t n) {
  const int64_t best = std::max_element(logits, logits + n) - logits;
  return {best, static_cast<double>(logits[best]) - std::log(static_cast<double>(probabilities[best]))};
}

// The sum of p (x - y): eight partial sums, so that the compiler may use vectors; doubles every 1024.
double kl_divergence(const float* x, const float* p, double x_log_sum, const float* y, double y_log_sum, int64_t n) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += 1024) {
    const int64_t end = std::min(begin + 1024, n);
    float partial[8] = {};
    int64_t i = begin;
    for (; i + 8 <= end; i += 8)
      for (int k = 0; k < 8; ++k) partial[k] += p[i + k] * (x[i + k] - y[i + k]);
    for (; i < end; ++i) partial[0] += p[i] * (x[i] - y[i]);
    for (const float value : partial) total += value;
  }
  return std::max(0.0, total - (x_log_sum - y_log_sum));
}

}  // namespace turboquant
