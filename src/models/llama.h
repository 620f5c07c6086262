// Llama and its like (mistral, qwen2, qwen3, and with experts mixtral, qwen2_moe, qwen3_moe, gpt_oss): RMS norms,
// rotary grouped-query attention with or without biases, sliding windows, norms of queries and keys, and sinks, SwiGLU,
// tied or untied head.
#pragma once

#include <variant>

#include "models/model.h"
#include "nn/attention.h"
#include "nn/moe.h"

namespace turboquant {

class LlamaModel final : public Model {
 public:
  LlamaModel(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops, const ModelOptions& options);

  std::vector<LayerMemory> layer_memory() const override;

 protected:
  Tensor layer(size_t index, const Tensor& x, const Step& step) override;

 private:
  struct Layer {
    Tensor input_norm;              // model.layers.N.input_layernorm.weight
    Attention attention;            // model.layers.N.self_attn
    Tensor post_attention_norm;     // model.layers.N.post_attention_layernorm.weight
    std::variant<Mlp, MoeMlp> mlp;  // model.layers.N.mlp
  };

  std::vector<Layer> layers_;
};

}  // namespace turboquant
