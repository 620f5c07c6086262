#include "models/experts.h"

#include <algorithm>

#include "io/config.h"

namespace turboquant {
namespace {

// Qwen's layers have experts, but for those listed and, where the step is above 1, those between.
bool has_experts(const nlohmann::json& config, const std::string& where, int64_t layer) {
  const int64_t step = config_integer_or(config, where, "decoder_sparse_step", 1);
  if ((layer + 1) % step != 0 || config_integer_or(config, where, "num_experts", 0, 0) == 0) return false;
  const auto listed = config.find("mlp_only_layers");
  if (listed == config.end() || listed->is_null()) return true;
  if (!listed->is_array() || !std::all_of(listed->begin(), listed->end(), [](const auto& v) { return v.is_number(); }))
    throw Error(where + ": config.json: 'mlp_only_layers' must be a list of numbers");
  return std::find(listed->begin(), listed->end(), layer) == listed->end();
}

}  // namespace

std::optional<MoeShape> moe_shape(const nlohmann::json& config, const std::string& where,
                                  const std::string& architecture, int64_t layer) {
  const bool qwen35 = architecture == "qwen3_5_moe" || architecture == "qwen3_5_moe_text";
  const bool qwen = qwen35 || architecture == "qwen2_moe" || architecture == "qwen3_moe";
  if (!qwen && architecture != "mixtral" && architecture != "gpt_oss") return std::nullopt;
  if (qwen && !has_experts(config, where, layer)) return std::nullopt;
  MoeShape shape;
  shape.hidden_size = config_integer(config, where, "hidden_size");
  shape.intermediate_size = config_integer(config, where, qwen ? "moe_intermediate_size" : "intermediate_size");
  shape.experts = config_integer(config, where, qwen ? "num_experts" : "num_local_experts");
  shape.per_token = config_integer(config, where, "num_experts_per_tok");
  if (shape.per_token > shape.experts)
    throw Error(where + ": config.json: 'num_experts_per_tok' is " + std::to_string(shape.per_token) + " of only " +
                std::to_string(shape.experts) + " experts");
  shape.normalize = qwen ? config_bool_or(config, where, "norm_topk_prob", qwen35) : true;
  if (qwen35 || architecture == "qwen2_moe")
    shape.shared_intermediate_size = config_integer(config, where, "shared_expert_intermediate_size");
  if (architecture == "gpt_oss") {
    shape.routing = MoeShape::Routing::choose_first;
    shape.router = "router";
    shape.clamped = true;
    shape.alpha = 1.702F;
    shape.limit = static_cast<float>(config_positive(config, where, "swiglu_limit", 7.0));
  }
  return shape;
}

}  // namespace turboquant
