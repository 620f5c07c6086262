// What logits say of the next token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace turboquant {

/// A token with its logit, or what was made of it.
struct TokenValue {
  int32_t token = 0;
  float value = 0;
};

/// The largest of the values, and -infinity of none. NaNs do not count.
float largest(std::span<const float> values);
/// out = e^((values - best) / temperature), for a `best` that is not below any value: relative error below 2e-7, and 0
/// where the result would be below 1e-37. The same on every machine.
void weights(std::span<const float> values, float best, float temperature, float* out);
/// The sum of these.
double sum_of_weights(std::span<const float> values, float best, float temperature);
/// Logarithm of the sum of e^logit.
double log_sum_exp(std::span<const float> logits);

/// Appends all tokens whose value is `least` or more, in their order.
void tokens_above(std::span<const float> values, float least, std::vector<TokenValue>& tokens);
/// The `count` tokens of largest values, in their order; of equal values the first tokens. At most all of them.
std::vector<TokenValue> largest_tokens(std::span<const float> values, size_t count);

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
