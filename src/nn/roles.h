// The small table of roles: what conversion must know of an architecture. Which tensors are matrices that a product
// reads, which of them read the same input (and share its rotation), which stay as they are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace turboquant {

enum class Role {
  linear,     // compressed
  embedding,  // token embedding; also the head where they are tied
  head,       // an untied output head
  other,      // norms, biases: kept as they are
};

/// The role of a tensor by its Hugging Face name.
Role role_of(std::string_view tensor);

/// "model.layers.0.self_attn.q_proj" of "model.layers.0.self_attn.q_proj.weight"; empty if the name is no weight's.
std::string_view module_of(std::string_view tensor);

/// "model.layers.0.mlp.experts.up_proj" of "model.layers.0.mlp.experts.7.up_proj": what all experts of a layer share is
/// named so. Any other module is its own.
std::string expert_stack(std::string_view module);
/// 7 of "model.layers.0.mlp.experts.7.up_proj"; -1 if the name is no expert's.
int64_t expert_number(std::string_view module);

/// The name of the input that a linear layer reads: the same for q, k and v, for all in_proj_*, and for gate and up,
/// those of all experts and of the shared expert of a layer included.
std::string input_site(std::string_view module);

}  // namespace turboquant
