// Qwen3.5, dense or with experts: layers of linear attention by the gated delta rule, every so often one of full
// attention with an output gate; RMS norms around 1, SwiGLU, tied or untied head. Reads Hugging Face's text and hub
// layouts, and mlx-lm's.
#pragma once

#include <optional>
#include <variant>

#include "models/model.h"
#include "nn/gated_attention.h"
#include "nn/gated_delta.h"
#include "nn/mlp.h"
#include "nn/moe.h"

namespace turboquant {

class Qwen35Model final : public Model {
 public:
  Qwen35Model(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops, const ModelOptions& options);

  std::vector<LayerMemory> layer_memory() const override;

 protected:
  Tensor layer(size_t index, const Tensor& x, const Step& step) override;

 private:
  struct Layer {
    Tensor input_norm;                        // model.layers.N.input_layernorm.weight
    std::optional<GatedDelta> linear;         // model.layers.N.linear_attn
    std::optional<GatedAttention> attention;  // or model.layers.N.self_attn
    Tensor post_attention_norm;               // model.layers.N.post_attention_layernorm.weight
    std::variant<Mlp, MoeMlp> mlp;            // model.layers.N.mlp
  };

  std::vector<Layer> layers_;
  DeltaShape delta_;
  int64_t taps_;
};

}  // namespace turboquant
