#include "nn/roles.h"

#include <array>
#include <charconv>
#include <utility>

namespace turboquant {
namespace {

struct Row {
  std::string_view layer;  // last part of the module's name
  std::string_view input;  // last part of its input's name
};

constexpr std::array<Row, 12> kLinears{{
    {"q_proj", "qkv"},
    {"k_proj", "qkv"},
    {"v_proj", "qkv"},
    {"o_proj", "o_proj"},
    {"gate_proj", "gate_up"},
    {"up_proj", "gate_up"},
    {"down_proj", "down_proj"},
    {"in_proj_qkv", "in_proj"},
    {"in_proj_z", "in_proj"},
    {"in_proj_b", "in_proj"},
    {"in_proj_a", "in_proj"},
    {"out_proj", "out_proj"},
}};

std::string_view last_part(std::string_view path) { return path.substr(path.rfind('.') + 1); }

// Where the number of an expert stands in a name; nowhere if both are equal.
std::pair<size_t, size_t> expert_digits(std::string_view module) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = module.rfind(kExperts);
  if (at == module.npos) return {0, 0};
  const size_t begin = at + kExperts.size(), end = module.find_first_not_of("0123456789", begin);
  if (end == begin || end == module.npos || module[end] != '.') return {0, 0};
  return {begin, end};
}

}  // namespace

std::string_view module_of(std::string_view tensor) {
  constexpr std::string_view kSuffix = ".weight";
  return tensor.ends_with(kSuffix) ? tensor.substr(0, tensor.size() - kSuffix.size()) : std::string_view();
}

Role role_of(std::string_view tensor) {
  const std::string_view module = module_of(tensor), layer = last_part(module);
  if (layer == "embed_tokens") return Role::embedding;
  if (layer == "lm_head") return Role::head;
  for (const Row& row : kLinears)
    if (row.layer == layer) return Role::linear;
  return Role::other;
}

std::string expert_stack(std::string_view module) {
  const auto [begin, end] = expert_digits(module);
  if (begin == end) return std::string(module);
  return std::string(module.substr(0, begin)) + std::string(module.substr(end + 1));
}

int64_t expert_number(std::string_view module) {
  const auto [begin, end] = expert_digits(module);
  if (begin == end) return -1;
  int64_t number = 0;
  std::from_chars(module.data() + begin, module.data() + end, number);
  return number;
}

std::string input_site(std::string_view module) {
  const std::string stack = expert_stack(module);
  const std::string_view layer = last_part(stack);
  for (const Row& row : kLinears) {
    if (row.layer != layer) continue;
    std::string_view block = std::string_view(stack).substr(0, stack.size() - layer.size());
    for (const std::string_view expert : {".experts.", ".shared_expert."})
      if (row.input == "gate_up" && block.ends_with(expert)) block.remove_suffix(expert.size() - 1);
    return std::string(block) + std::string(row.input);
  }
  return std::string(module);
}

}  // namespace turboquant
