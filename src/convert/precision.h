// Which matrix gets how many bits: what the user names, presets, and what an architecture wants.
#pragma once

#include <map>
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

/// "GLOB=BITS". UsageError: no such form, or no such bits.
BitsRule parse_bits_rule(const std::string& text);

/// The rules of a recommended mix on top of `bits` for all: "dense" or "moe"; none for "". UsageError: unknown.
std::vector<BitsRule> preset_rules(const std::string& preset, int bits);

/// The bits of every matrix of a checkpoint: `bits` for linear layers and `head_bits` for embedding and head, unless a
/// rule says otherwise. Later rules win. In TCQ16, attention of gpt_oss has 8 bits without any rule: it is small beside
/// the experts, and was not trained to be quantized, as they were. Norms, routers and the gates of shared experts are
/// no matrices in this sense: no rule changes them.
class Precision {
 public:
  /// Error: a required rule matches no matrix; its glob is named.
  Precision(const Checkpoint& source, QuantSpec::Method method, int bits, int head_bits, std::vector<BitsRule> rules);

  int bits(std::string_view tensor, Role role) const;
  /// What bits() gives where no rule matches.
  int base(Role role) const { return role == Role::linear ? bits_ : head_bits_; }
  /// The modules with other bits than base(): the experts of a layer by what all share ("X.mlp.experts.up_proj") where
  /// their bits are the same.
  std::map<std::string, int> others(const Checkpoint& source) const;

 private:
  std::vector<BitsRule> rules_;
  int bits_, head_bits_;
};

}  // namespace turboquant
