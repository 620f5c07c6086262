#include "models/qwen3_5.h"

#include "io/config.h"
#include "models/experts.h"

namespace turboquant {
namespace {

nlohmann::json config_of(const Checkpoint& checkpoint) {
  return text_config(checkpoint.config(), checkpoint.path().string());
}

DeltaShape delta_shape(const nlohmann::json& config, const std::string& where) {
  DeltaShape shape;
  shape.n_key_heads = config_integer(config, where, "linear_num_key_heads");
  shape.n_value_heads = config_integer(config, where, "linear_num_value_heads");
  shape.key_dim = config_integer(config, where, "linear_key_head_dim");
  shape.value_dim = config_integer(config, where, "linear_value_head_dim");
  if (shape.n_value_heads % shape.n_key_heads != 0)
    throw Error(where + ": config.json: 'linear_num_value_heads' is no multiple of 'linear_num_key_heads'");
  return shape;
}

/// What must be added to the weights of norms: Hugging Face stores them around 0. mlx-lm's files, and the original's
/// that come from them, hold 1 + weight, and are known by the taps of their convolutions: [channels, taps, 1].
float norm_offset(const Checkpoint& checkpoint) {
  for (const TensorInfo& info : checkpoint.tensors())
    if (info.name.ends_with(".conv1d.weight") && info.shape.rank() == 3) return info.shape.back() == 1 ? 0.0F : 1.0F;
  return 1.0F;
}

}  // namespace

Qwen35Model::Qwen35Model(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops, const ModelOptions& options)
    : Model(checkpoint, std::move(ops), options) {
  const std::string where = checkpoint.path().string();
  const nlohmann::json config = config_of(checkpoint);
  delta_ = delta_shape(config, where);
  taps_ = config_integer(config, where, "linear_conv_kernel_dim", 2);
  const float offset = norm_offset(checkpoint);
  Loader loader(checkpoint, options.qjl, options.repack ? ops_.get() : nullptr);
  load_ends(loader, offset);
  for (int64_t i = first_layer(); i < end_layer(); ++i) {
    const std::string path = "model.layers." + std::to_string(i);
    Layer layer;
    layer.input_norm = loader.norm(path + ".input_layernorm.weight", info_.hidden_size, offset);
    if (is_linear_attention(config, where, i))
      layer.linear = GatedDelta::load(loader, path + ".linear_attn", info_.hidden_size, delta_, taps_, eps_);
    else
      layer.attention =
          GatedAttention::load(loader, path + ".self_attn", info_.hidden_size, info_.attention, eps_, offset);
    layer.post_attention_norm = loader.norm(path + ".post_attention_layernorm.weight", info_.hidden_size, offset);
    if (const auto experts = moe_shape(config, where, info_.architecture, i))
      layer.mlp = MoeMlp::load(loader, path + ".mlp", *experts);
    else
      layer.mlp = Mlp::load(loader, path + ".mlp", info_.hidden_size, info_.intermediate_size);
    layers_.push_back(std::move(layer));
  }
}

Tensor Qwen35Model::layer(size_t index, const Tensor& x, const Step& step) {
  const Layer& layer = layers_[index];
  const Tensor normed = ops_->rms_norm(x, layer.input_norm, eps_);
  const Tensor attended = ops_->add(x, layer.linear ? layer.linear->forward(*ops_, normed, step, index)
                                                    : layer.attention->forward(*ops_, normed, step, rope_, index));
  const Tensor inner = ops_->rms_norm(attended, layer.post_attention_norm, eps_);
  return ops_->add(attended,
                   std::visit([&](const auto& mlp) { return mlp.forward(*ops_, inner, step.exact); }, layer.mlp));
}

std::vector<LayerMemory> Qwen35Model::layer_memory() const {
  std::vector<LayerMemory> memory;
  for (const Layer& layer : layers_)
    if (layer.linear)
      memory.push_back(
          {.state_floats = delta_.n_value_heads * delta_.state_floats() + (taps_ - 1) * delta_.channels()});
    else
      memory.push_back({.n_kv_heads = info_.attention.n_kv_heads, .head_dim = info_.attention.head_dim});
  return memory;
}

}  // namespace turboquant
