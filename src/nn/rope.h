// Rotary position embedding: frequencies from config.json, cosines and sines of the positions in use.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace turboquant {

class Rope {
 public:
  /// `config` is a model's config.json, `where` its folder or file for messages: rope_theta and rope_scaling, or both
  /// in rope_parameters. Types: default, linear, llama3, yarn. Anything else is an Error. head_dim is even. With a
  /// partial_rotary_factor only so large a part of each head, its first values, is rotated. (Sections for images, as in
  /// mrope_section, have equal positions in a text, and so make no difference.)
  Rope(const nlohmann::json& config, const std::string& where, int64_t head_dim);

  /// Rotates the heads of x, F32 [tokens, heads * head_dim]. reserve() has seen the positions.
  Tensor apply(Ops& ops, const Tensor& x, std::span<const int32_t> positions) const {
    return ops.rope(x, cos_, sin_, positions, head_dim_);
  }
  /// Makes the tables long enough for positions below `length`.
  void reserve(int64_t length);

 private:
  int64_t head_dim_;
  std::vector<double> frequencies_;  // [rotated part of a head / 2]
  double amplitude_ = 1;             // of cosines and sines
  Tensor cos_, sin_;                 // F32 [positions, rotated part of a head / 2]
};

}  // namespace turboquant
