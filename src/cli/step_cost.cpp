#include "cli/step_cost.h"

#include <algorithm>

#include "io/config.h"
#include "models/summary.h"
#include "nn/roles.h"

namespace turboquant {
namespace {

// The share of a layer's experts that a token is sent to; 1 without experts.
double routed_share(const Checkpoint& checkpoint) {
  const std::string where = checkpoint.path().string();
  const nlohmann::json config = text_config(checkpoint.config(), where);
  int64_t experts = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) experts = std::max(experts, expert_number(tensor.name) + 1);
  if (experts == 0) return 1;
  return static_cast<double>(config_integer_or(config, where, "num_experts_per_tok", 1)) / static_cast<double>(experts);
}

}  // namespace

StepCost step_cost(const Checkpoint& checkpoint, bool tied_head) {
  const Summary summary = summarize(checkpoint);
  const double routed = routed_share(checkpoint);
  StepCost cost;
  cost.linear_bytes = static_cast<double>(summary.linear.bytes - summary.experts.bytes) +
                      routed * static_cast<double>(summary.experts.bytes);
  cost.multiply_adds = static_cast<double>(summary.linear.weights - summary.experts.weights) +
                       routed * static_cast<double>(summary.experts.weights);
  for (const auto& [key, share] : summary.matrices)
    if (key.first == (tied_head ? Role::embedding : Role::head)) cost.head_bytes += static_cast<double>(share.bytes);
  return cost;
}

}  // namespace turboquant
