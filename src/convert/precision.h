// Which matrix gets how many bits: what the user names, presets, and what an architecture wants.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "nn/roles.h"
#include "quant/quantize.h"

namespace turboquant {

/// Matrices whose Hugging Face name (with or without ".weight") matches the glob get these bits: 2, 3, 4, 8 (rows of
/// int8), or 16 (they stay as they are). A glob has *, ? and [...]; * matches dots as well.
struct BitsRule {
  std::string glob;
  int bits = 16;
  bool required = true;  // it must match something
};

/// What a conversion may take, instead of one number of bits: how bits are spent on what no rule fixes is chosen matrix
/// by matrix (allocation.h), the experts of a layer and kind together. Of TCQ16 alone.
struct BitsBudget {
  /// Bits of a code, from 2 to 8, on average over all linear layers that can be compressed, those that rules fix
  /// included: they take at most what TCQ16 of that many bits would, indices and row scales as ever. 0: see `bytes`.
  double average_bits = 0;
  uint64_t bytes = 0;  // of the whole checkpoint, headers included; embedding and head get their bits from it too
  /// Measured: what 3 bits cost a module, or the experts' stack of a layer (expert_stack()), in KL divergence. Others
  /// have the cost that their role has (sensitivity.h).
  std::map<std::string, double> losses;
};

/// Bits by module, or by what the experts of a layer share.
using BitsAllocation = std::map<std::string, int>;

/// "GLOB=BITS". UsageError: no such form, or no such bits.
BitsRule parse_bits_rule(const std::string& text);

/// The rules of a recommended mix on top of `bits` for all: "dense" or "moe"; none for "". UsageError: unknown.
std::vector<BitsRule> preset_rules(const std::string& preset, int bits);

/// The bits of every matrix of a checkpoint: what a rule says, of several the last; else what the allocation says; else
/// `bits` for linear layers and `head_bits` for embedding and head. In TCQ16 without an allocation, attention of
/// gpt_oss has 8 bits without any rule: it is small beside the experts, and was not trained to be quantized, as they
/// were. Norms, routers and the gates of shared experts are
/// no matrices in this sense: no rule changes them.
class Precision {
 public:
  /// Error: a required rule matches no matrix; its glob is named.
  Precision(const Checkpoint& source, QuantSpec::Method method, int bits, int head_bits, std::vector<BitsRule> rules,
            std::optional<BitsAllocation> allocation = {});

  int bits(std::string_view tensor, Role role) const;
  /// Whether a rule says what bits() gives.
  bool ruled(std::string_view tensor) const { return rule_of(tensor) != nullptr; }
  /// What bits() gives where neither rules nor allocation say anything.
  int base(Role role) const { return role == Role::linear ? bits_ : head_bits_; }
  /// The modules with other bits than base(): the experts of a layer by what all share ("X.mlp.experts.up_proj") where
  /// their bits are the same.
  std::map<std::string, int> others(const Checkpoint& source) const;

 private:
  const BitsRule* rule_of(std::string_view tensor) const;

  std::vector<BitsRule> rules_;
  std::optional<BitsAllocation> allocation_;
  int bits_, head_bits_;
};

}  // namespace turboquant
