// What config.json says of a layer's experts, by architecture.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "nn/moe.h"

namespace turboquant {

/// The mixture of experts of a layer; nothing if the layer has one feed-forward block. Architectures: mixtral,
/// qwen2_moe, qwen3_moe, qwen3_5_moe, gpt_oss; all others have none. Error: config.json contradicts itself.
std::optional<MoeShape> moe_shape(const nlohmann::json& config, const std::string& where,
                                  const std::string& architecture, int64_t layer);

}  // namespace turboquant
