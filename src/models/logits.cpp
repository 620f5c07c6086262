#include "models/logits.h"

#include <algorithm>
#include <cmath>

namespace turboquant {

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
