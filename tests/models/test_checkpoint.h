// Checkpoints in memory: tiny Llama models with random weights, and copies of real ones to be changed.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/random.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/safetensors.h"

namespace turboquant {

class TestCheckpoint final : public Checkpoint {
 public:
  TestCheckpoint() { path_ = "test-model"; }
  /// All tensors and config.json of another; they share memory.
  explicit TestCheckpoint(const Checkpoint& other) {
    path_ = other.path();
    config_ = other.config();
    for (const TensorInfo& info : other.tensors()) set(info.name, other.read(info.name));
  }

  nlohmann::json& config() { return config_; }
  const nlohmann::json& config() const { return config_; }
  void set(const std::string& name, const Tensor& tensor) {
    values_[name] = tensor;
    list();
  }
  void remove(const std::string& name) {
    values_.erase(name);
    list();
  }
  /// One element of a tensor becomes `value`.
  void poke(const std::string& name, int64_t index, float value) {
    const Tensor old = values_.at(name);
    Tensor values = to_float(old);
    values.data<float>()[index] = value;
    set(name, from_float(values.data<float>(), old.shape(), old.dtype()));
  }

  Tensor read(std::string_view name) const override {
    const auto found = values_.find(name);
    if (found == values_.end()) throw Error(path_.string() + ": no tensor " + quote(name));
    return found->second;
  }
  std::optional<std::string> file(std::string_view) const override { return std::nullopt; }
  uint64_t size_on_disk() const override { return 0; }

  /// A folder that open_checkpoint() reads.
  void write(const std::filesystem::path& folder) const {
    std::filesystem::create_directories(folder);
    write_text(folder / "config.json", config_.dump(1));
    write_safetensors(folder / "model.safetensors", {values_.begin(), values_.end()});
  }

 private:
  void list() {
    tensors_.clear();
    for (const auto& [name, tensor] : values_) tensors_.push_back({name, tensor.dtype(), tensor.shape()});
  }

  std::map<std::string, Tensor, std::less<>> values_;
};

/// What a random model looks like.
struct TinyLlama {
  int64_t hidden = 64, intermediate = 96, layers = 2, heads = 4, kv_heads = 2, head_dim = 16, vocab = 80;
  bool tied = true, attention_bias = false, mlp_bias = false;
  DType dtype = DType::f32;
  uint64_t seed = 1;
};

/// A Llama with random weights of a size that keeps activations near 1.
inline TestCheckpoint make_tiny_llama(const TinyLlama& tiny) {
  TestCheckpoint model;
  model.config() = {{"model_type", "llama"},
                    {"hidden_size", tiny.hidden},
                    {"intermediate_size", tiny.intermediate},
                    {"num_hidden_layers", tiny.layers},
                    {"num_attention_heads", tiny.heads},
                    {"num_key_value_heads", tiny.kv_heads},
                    {"head_dim", tiny.head_dim},
                    {"vocab_size", tiny.vocab},
                    {"max_position_embeddings", 512},
                    {"rms_norm_eps", 1e-5},
                    {"tie_word_embeddings", tiny.tied},
                    {"attention_bias", tiny.attention_bias},
                    {"mlp_bias", tiny.mlp_bias}};
  uint64_t seed = tiny.seed * 1000;
  const auto random = [&](const std::string& name, const Shape& shape, float mean, double deviation) {
    std::vector<float> values = random_normal(++seed, shape.elements());
    for (float& v : values) v = mean + static_cast<float>(deviation) * v;
    model.set(name, from_float(values.data(), shape, tiny.dtype));
  };
  const auto linear = [&](const std::string& module, int64_t rows, int64_t cols, bool bias) {
    random(module + ".weight", {rows, cols}, 0, 1 / std::sqrt(static_cast<double>(cols)));
    if (bias) random(module + ".bias", {rows}, 0, 0.3);
  };
  random("model.embed_tokens.weight", {tiny.vocab, tiny.hidden}, 0, 0.7);
  for (int64_t i = 0; i < tiny.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i);
    const std::string attention = layer + ".self_attn", mlp = layer + ".mlp";
    const int64_t q_width = tiny.heads * tiny.head_dim, kv_width = tiny.kv_heads * tiny.head_dim;
    random(layer + ".input_layernorm.weight", {tiny.hidden}, 1, 0.2);
    linear(attention + ".q_proj", q_width, tiny.hidden, tiny.attention_bias);
    linear(attention + ".k_proj", kv_width, tiny.hidden, tiny.attention_bias);
    linear(attention + ".v_proj", kv_width, tiny.hidden, tiny.attention_bias);
    linear(attention + ".o_proj", tiny.hidden, q_width, tiny.attention_bias);
    random(layer + ".post_attention_layernorm.weight", {tiny.hidden}, 1, 0.2);
    linear(mlp + ".gate_proj", tiny.intermediate, tiny.hidden, tiny.mlp_bias);
    linear(mlp + ".up_proj", tiny.intermediate, tiny.hidden, tiny.mlp_bias);
    linear(mlp + ".down_proj", tiny.hidden, tiny.intermediate, tiny.mlp_bias);
  }
  random("model.norm.weight", {tiny.hidden}, 1, 0.2);
  if (!tiny.tied) linear("lm_head", tiny.vocab, tiny.hidden, false);
  return model;
}

}  // namespace turboquant
