#include "models/llama.h"

#include "io/config.h"
#include "models/experts.h"

namespace turboquant {
namespace {

/// The sliding window of a layer, 0 for full attention: layer_types says which layers have it; without it, all layers
/// of mistral, every other one of gpt_oss and, where use_sliding_window is set, those of qwen from max_window_layers
/// on.
int64_t window_of(const nlohmann::json& config, const std::string& where, const std::string& architecture,
                  int64_t layer) {
  const int64_t window = config_integer_or(config, where, "sliding_window", 0, 0);
  if (window == 0 || !config_bool_or(config, where, "use_sliding_window", !architecture.starts_with("qwen"))) return 0;
  const auto types = config.find("layer_types");
  if (types != config.end() && types->is_array()) {
    const auto at = static_cast<size_t>(layer);
    if (at >= types->size() || !types->at(at).is_string())
      throw Error(where + ": config.json: 'layer_types' has no name for layer " + std::to_string(layer));
    return types->at(at) == "sliding_attention" ? window : 0;
  }
  if (architecture == "gpt_oss") return layer % 2 == 0 ? window : 0;
  return layer >= config_integer_or(config, where, "max_window_layers", 0, 0) ? window : 0;
}

/// What the attention of an architecture has beyond Llama's.
AttentionParts parts_of(const std::string& architecture) {
  return {.qk_norms = architecture == "qwen3" || architecture == "qwen3_moe", .sinks = architecture == "gpt_oss"};
}

}  // namespace

LlamaModel::LlamaModel(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops, const ModelOptions& options)
    : Model(checkpoint, std::move(ops), options) {
  const std::string where = checkpoint.path().string();
  Loader loader(checkpoint, options.qjl, options.repack ? ops_.get() : nullptr);
  load_ends(loader, 0);
  for (int64_t i = first_layer(); i < end_layer(); ++i) {
    const std::string path = "model.layers." + std::to_string(i);
    AttentionShape shape = info_.attention;
    shape.window = window_of(checkpoint.config(), where, info_.architecture, i);
    Layer layer;
    layer.input_norm = loader.vector(path + ".input_layernorm.weight", info_.hidden_size);
    layer.attention =
        Attention::load(loader, path + ".self_attn", info_.hidden_size, shape, parts_of(info_.architecture), eps_);
    layer.post_attention_norm = loader.vector(path + ".post_attention_layernorm.weight", info_.hidden_size);
    if (const auto experts = moe_shape(checkpoint.config(), where, info_.architecture, i)) {
      layer.mlp = MoeMlp::load(loader, path + ".mlp", *experts);
    } else {
      layer.mlp = Mlp::load(loader, path + ".mlp", info_.hidden_size, info_.intermediate_size);
    }
    layers_.push_back(std::move(layer));
  }
}

Tensor LlamaModel::layer(size_t index, const Tensor& x, const Step& step) {
  const Layer& layer = layers_[index];
  const Tensor attended =
      ops_->add(x, layer.attention.forward(*ops_, ops_->rms_norm(x, layer.input_norm, eps_), step, rope_, index));
  const Tensor normed = ops_->rms_norm(attended, layer.post_attention_norm, eps_);
  return ops_->add(attended,
                   std::visit([&](const auto& mlp) { return mlp.forward(*ops_, normed, step.exact); }, layer.mlp));
}

std::vector<LayerMemory> LlamaModel::layer_memory() const {
  std::vector<LayerMemory> memory;
  for (const Layer& layer : layers_) {
    const AttentionShape& shape = layer.attention.shape;
    memory.push_back({.n_kv_heads = shape.n_kv_heads, .head_dim = shape.head_dim, .window = shape.window});
  }
  return memory;
}

}  // namespace turboquant
