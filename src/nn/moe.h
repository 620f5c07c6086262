// A mixture of experts: a router sends each token to a few of many feed-forward blocks and adds up what they return.
#pragma once

#include <optional>

#include "nn/mlp.h"

namespace turboquant {

struct MoeShape {
  enum class Routing {
    softmax_first,  // probabilities of all experts, then the largest (Mixtral, Qwen)
    choose_first,   // the largest logits, then probabilities among these (gpt-oss)
  };

  int64_t hidden_size = 0, intermediate_size = 0, experts = 0, per_token = 0;
  Routing routing = Routing::softmax_first;
  bool normalize = false;                // the probabilities of the chosen sum up to 1
  int64_t shared_intermediate_size = 0;  // of the expert that every token visits; 0: there is none
  const char* router = "gate";           // last part of the router's name
  bool clamped = false;                  // clamped_swiglu with these:
  float alpha = 0, limit = 0;
};

/// The experts of one token, in ascending order, and what their results count, from the router's logits [experts].
/// Equal logits: the lower index comes first. Both results have room for shape.per_token.
void choose_experts(std::span<const float> logits, const MoeShape& shape, std::span<int32_t> experts,
                    std::span<float> weights);

struct MoeMlp {
  MoeShape shape;
  Linear router;              // [experts], never compressed
  std::vector<Mlp> experts;   // all gates and ups share one rotation, and all downs another
  std::optional<Mlp> shared;  // its gate and up share the experts' rotation
  Linear shared_gate;         // [1], never compressed: a sigmoid of it is what the shared expert counts

  /// Reads MODULE.ROUTER, MODULE.experts.E.{gate,up,down}_proj, MODULE.shared_expert.*, MODULE.shared_expert_gate.
  static MoeMlp load(Loader& loader, const std::string& module, const MoeShape& shape);

  /// x F32 [tokens, hidden_size] -> the same shape. Each chosen expert's weights are read once, whatever the number of
  /// tokens. A token's result is summed in the order of its experts' indices: it does not depend on other tokens.
  Tensor forward(Ops& ops, const Tensor& x, bool exact) const;
};

}  // namespace turboquant
