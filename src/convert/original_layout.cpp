#include "convert/original_layout.h"

#include <algorithm>
#include <array>

#include "io/config.h"
#include "models/model.h"
#include "nn/roles.h"

namespace turboquant {
namespace {

constexpr std::string_view kConvolution = ".conv1d.weight";

bool is_convolution(const TensorInfo& tensor) {
  return tensor.name.ends_with(kConvolution) && tensor.shape.rank() == 3;
}

// mlx-lm knows no rope_parameters but in its Qwen3.5: it reads rope_theta, and rope_scaling where there is scaling.
void add_rope(nlohmann::json& config) {
  const auto found = config.find("rope_parameters");
  if (found == config.end() || !found->is_object()) return;
  nlohmann::json parameters = *found;
  if (!parameters.contains("rope_theta")) return;  // one for each kind of layer, or none: nothing to say
  if (!config.contains("rope_theta")) config["rope_theta"] = parameters["rope_theta"];
  parameters.erase("rope_theta");
  if (parameters.value("rope_type", nlohmann::json("default")) != "default" && !config.contains("rope_scaling"))
    config["rope_scaling"] = std::move(parameters);
}

// mlx-lm does not read layer_types of Qwen3.5: of every so many layers the last is one of full attention. 0: not so
// here.
size_t attention_interval(const nlohmann::json& types) {
  const auto first = std::find(types.begin(), types.end(), "full_attention");
  const auto interval = static_cast<size_t>(first - types.begin()) + 1;
  for (size_t i = 0; i < types.size(); ++i)
    if ((types[i] == "full_attention") != ((i + 1) % interval == 0)) return 0;
  return interval;
}

}  // namespace

OriginalLayout::OriginalLayout(const Checkpoint& source) {
  const std::string where = source.path().string();
  type_ = config_string_or(source.config(), where, "model_type", "");
  const nlohmann::json text = text_config(source.config(), where);
  tied_ = config_bool_or(text, where, "tie_word_embeddings", false);
  nested_ = type_.starts_with("qwen3_5");
  if (!nested_) return;
  if (const auto types = text.find("layer_types");
      !text.contains("full_attention_interval") && types != text.end() && types->is_array()) {
    interval_ = attention_interval(*types);
    if (interval_ == 0)
      note_ =
          "turboquant-mlx cannot run these 'layer_types' of config.json: it wants full attention in one of every so "
          "many layers";
  }
  for (const TensorInfo& tensor : source.tensors())
    if (is_convolution(tensor)) norms_are_low_ = norms_are_low_ || tensor.shape.back() != 1;
}

bool OriginalLayout::leaves_out(std::string_view tensor) const {
  return (tied_ && tensor == "lm_head.weight") || tensor.ends_with(".rotary_emb.inv_freq");
}

// Stacks of experts are named switch_mlp, but for gpt-oss; Mixtral's block keeps its name.
std::string OriginalLayout::name(std::string_view tensor) const {
  std::string result = expert_stack(tensor);
  const auto replace = [&](std::string_view part, std::string_view other) {
    if (const size_t at = result.find(part); at != result.npos) result.replace(at, part.size(), other);
  };
  if (type_ != "gpt_oss" && result != tensor) replace(".mlp.experts.", ".mlp.switch_mlp.");
  if (type_ == "mixtral") replace(".mlp.", ".block_sparse_moe.");
  return nested_ ? "language_model." + result : result;
}

bool OriginalLayout::adds_one(std::string_view tensor) const {
  constexpr std::array<std::string_view, 5> kNorms{".input_layernorm.weight", ".post_attention_layernorm.weight",
                                                   "model.norm.weight", ".q_norm.weight", ".k_norm.weight"};
  return norms_are_low_ &&
         std::any_of(kNorms.begin(), kNorms.end(), [&](std::string_view suffix) { return tensor.ends_with(suffix); });
}

TensorInfo OriginalLayout::stored(const TensorInfo& tensor) const {
  TensorInfo result{name(tensor.name), tensor.dtype, tensor.shape};
  if (nested_ && is_convolution(tensor) && tensor.shape.back() != 1)
    result.shape = {tensor.shape[0], tensor.shape[2], tensor.shape[1]};
  return result;
}

Tensor OriginalLayout::store(std::string_view name, const Tensor& tensor) const {
  if (adds_one(name)) {
    Tensor values = to_float(tensor);
    for (int64_t i = 0; i < values.elements(); ++i) values.data<float>()[i] += 1;
    return from_float(values.data<float>(), values.shape(), tensor.dtype());
  }
  const TensorInfo info{std::string(name), tensor.dtype(), tensor.shape()};
  const Shape shape = stored(info).shape;
  if (shape == tensor.shape()) return tensor;
  if (tensor.dim(1) != 1) throw Error("tensor " + describe(info) + ": expected [channels, 1, taps]");
  return tensor.reshape(shape);  // one input a channel: the bytes stay in their order
}

nlohmann::json OriginalLayout::config(const nlohmann::json& config) const {
  nlohmann::json result = config;
  const auto text = result.find("text_config");
  nlohmann::json& language = text != result.end() && text->is_object() ? *text : result;
  language["tie_word_embeddings"] = tied_;  // if it is left out, some of mlx-lm's models take yes and some no
  if (!nested_) {
    add_rope(language);
    return result;
  }
  // A text model by itself is the same class of mlx-lm's.
  constexpr std::string_view kText = "_text";
  if (type_.ends_with(kText)) result["model_type"] = type_.substr(0, type_.size() - kText.size());
  if (interval_ != 0) language["full_attention_interval"] = interval_;
  return result;
}

}  // namespace turboquant
