#include "convert/precision.h"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>

#include "io/config.h"
#include "io/files.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

bool matches(const std::string& glob, std::string_view tensor) {
  return fnmatch(glob.c_str(), std::string(module_of(tensor)).c_str(), 0) == 0 ||
         fnmatch(glob.c_str(), std::string(tensor).c_str(), 0) == 0;
}

}  // namespace

BitsRule parse_bits_rule(const std::string& text) {
  const size_t at = text.rfind('=');
  if (at == text.npos || at == 0) throw UsageError("--bits-for " + text + ": give GLOB=BITS, such as '*.down_proj=4'");
  BitsRule rule;
  rule.glob = text.substr(0, at);
  const char *begin = text.data() + at + 1, *end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, rule.bits);
  constexpr int kBits[] = {2, 3, 4, 8, 16};
  if (error != std::errc() || stop != end ||
      std::find(std::begin(kBits), std::end(kBits), rule.bits) == std::end(kBits))
    throw UsageError("--bits-for " + text + ": bits are 2, 3, 4, 8, or 16 to leave a matrix as it is");
  return rule;
}

std::vector<BitsRule> preset_rules(const std::string& preset, int bits) {
  if (preset.empty()) return {};
  std::vector<BitsRule> rules;
  const auto raise = [&](const char* glob, int to) { rules.push_back({glob, to, false}); };
  if (preset == "dense") {
    // A bit is worth most in these (docs/precision.md has the figures). Above 4 bits comes 8, which only v, the
    // smallest of them, is worth.
    if (bits == 4) {
      raise("*.v_proj", 8);
    } else if (bits < 4) {
      for (const char* glob : {"*.v_proj", "*.o_proj", "*.out_proj", "*.down_proj"}) raise(glob, bits + 1);
    }
  } else if (preset == "moe") {
    // What every token reads is small beside the experts.
    for (const char* glob : {"*.self_attn.*", "*.linear_attn.*", "*.shared_expert.*"}) raise(glob, 8);
  } else {
    throw UsageError("--preset " + preset + ": unknown; use dense or moe");
  }
  return rules;
}

Precision::Precision(const Checkpoint& source, QuantSpec::Method method, int bits, int head_bits,
                     std::vector<BitsRule> rules, std::optional<BitsAllocation> allocation)
    : rules_(std::move(rules)), allocation_(std::move(allocation)), bits_(bits), head_bits_(head_bits) {
  const std::string where = source.path().string();
  for (const BitsRule& rule : rules_) {
    if (!rule.required) continue;
    bool any = false, matrix = false;
    for (const TensorInfo& tensor : source.tensors()) {
      if (!matches(rule.glob, tensor.name)) continue;
      any = true;
      matrix = matrix || role_of(tensor.name) != Role::other;
      if (matrix) break;
    }
    if (!matrix)
      throw Error(where + ": --bits-for " + quote(rule.glob) +
                  (any ? " matches only tensors that are never compressed"
                       : " matches no tensor; names are those of Hugging Face, such as "
                         "model.layers.0.mlp.down_proj"));
  }
  if (method == QuantSpec::Method::tcq16 && !allocation_ &&
      config_string_or(source.config(), where, "model_type", "") == "gpt_oss")
    rules_.insert(rules_.begin(), {"*.self_attn.*", 8, false});
}

const BitsRule* Precision::rule_of(std::string_view tensor) const {
  for (auto rule = rules_.rbegin(); rule != rules_.rend(); ++rule)
    if (matches(rule->glob, tensor)) return &*rule;
  return nullptr;
}

int Precision::bits(std::string_view tensor, Role role) const {
  if (const BitsRule* rule = rule_of(tensor)) return rule->bits;
  if (allocation_)
    if (const auto found = allocation_->find(expert_stack(module_of(tensor))); found != allocation_->end())
      return found->second;
  return base(role);
}

std::map<std::string, int> Precision::others(const Checkpoint& source) const {
  std::map<std::string, std::map<std::string, int>> stacks;  // by what experts share; any other module is its own
  std::map<std::string, int> result;
  for (const TensorInfo& tensor : source.tensors()) {
    const Role role = role_of(tensor.name);
    if (role == Role::other) continue;
    const std::string module(module_of(tensor.name));
    stacks[expert_stack(module)][module] = bits(tensor.name, role);
  }
  for (const auto& [stack, modules] : stacks) {
    const int base_bits = base(role_of(modules.begin()->first + ".weight")), first = modules.begin()->second;
    const bool alike =
        std::all_of(modules.begin(), modules.end(), [&](const auto& module) { return module.second == first; });
    if (alike && first != base_bits) result[stack] = first;
    if (alike) continue;
    for (const auto& [module, bits] : modules)
      if (bits != base_bits) result[module] = bits;
  }
  return result;
}

}  // namespace turboquant
