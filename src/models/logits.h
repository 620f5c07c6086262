// What logits say of the next token.
#pragma once

#include <cstdint>

namespace turboquant {

struct Top {
  int64_t token = 0;
  double log_sum = 0;  // log of the sum of e^logit
};

/// The most likely token, and from its probability the normalizer of all; both [n].
Top top_of(const float* logits, const float* probabilities, int64_t n);

/// KL divergence in nats of the distribution with logits y [n] from that with logits x [n] and probabilities p [n],
/// whose sums of e^logit have these logarithms.
double kl_divergence(const float* x, const float* p, double x_log_sum, const float* y, double y_log_sum, int64_t n);

}  // namespace turboquant
