#include "models/model.h"

#include <algorithm>

#include "core/random.h"
#include "io/config.h"
#include "models/batch.h"

namespace turboquant {

Model::Model(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops, const ModelOptions& options)
    : info_(model_info(checkpoint.config(), checkpoint.path().string())),
      ops_(std::move(ops)),
      options_(options),
      rope_(text_config(checkpoint.config(), checkpoint.path().string()), checkpoint.path().string(),
            info_.attention.head_dim),
      eps_(static_cast<float>(config_positive(text_config(checkpoint.config(), checkpoint.path().string()),
                                              checkpoint.path().string(), "rms_norm_eps", 1e-6))) {}

void Model::load_ends(Loader& loader, float norm_offset) {
  embedding_ = loader.linear("model.embed_tokens", info_.vocab_size, info_.hidden_size, !info_.tied_head);
  norm_ = loader.norm("model.norm.weight", info_.hidden_size, norm_offset);
  head_ = info_.tied_head ? embedding_ : loader.linear("lm_head", info_.vocab_size, info_.hidden_size);
}

Tensor Model::run_layers(const Batch& batch) {
  const Step step{batch.sequences, batch.positions, options_.exact};
  Tensor x = embed(batch.tokens);
  for (size_t i = 0; i < static_cast<size_t>(info_.n_layers); ++i) {
    ops_->begin_scope();
    x = layer(i, x, step);
  }
  ops_->begin_scope();
  return x;
}

Tensor Model::forward(std::span<const SequenceTokens> parts) {
  const Batch batch(parts, info_.max_context, rope_);
  if (batch.tokens.empty()) return ops_->empty(DType::f32, {0, info_.vocab_size});
  Tensor x = run_layers(batch);
  if (batch.wanted.empty()) return ops_->empty(DType::f32, {0, info_.vocab_size});
  if (batch.wanted.size() != batch.tokens.size()) x = ops_->gather_rows(x, batch.wanted);
  return project(*ops_, ops_->rms_norm(x, norm_, eps_), {&head_}, options_.exact).front();
}

Tensor Model::hidden(std::span<const SequenceTokens> parts) {
  const Batch batch(parts, info_.max_context, rope_);
  if (batch.tokens.empty()) return ops_->empty(DType::f32, {0, info_.hidden_size});
  return ops_->rms_norm(run_layers(batch), norm_, eps_);
}

Tensor Model::embed(std::span<const int32_t> tokens) {
  ops_->begin_scope();
  return ops_->embedding(embedding_.weight, embedding_.rotation, tokens);
}

Tensor Model::run_layer(size_t index, const Tensor& x, std::span<const SequenceTokens> parts) {
  const Batch batch(parts, info_.max_context, rope_);
  ops_->begin_scope();
  return layer(index, x, {batch.sequences, batch.positions, options_.exact});
}

Tensor Model::logits(const Tensor& x) {
  ops_->begin_scope();
  return project(*ops_, ops_->rms_norm(x, norm_, eps_), {&head_}, options_.exact).front();
}

void Model::fill_randomly(Cache& cache, int64_t tokens) {
  constexpr int64_t kChunk = 256;
  const int64_t width = info_.attention.n_kv_heads * info_.attention.head_dim;
  const Tensor x = from_float(random_normal(1, kChunk * width).data(), {kChunk, width}, DType::f32);
  const Tensor none = Tensor::zeros(DType::f32, {0, info_.attention.n_heads * info_.attention.head_dim});
  const std::vector<LayerMemory> layers = layer_memory();
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].n_kv_heads == 0) continue;
    AttentionShape shape = info_.attention;
    shape.window = layers[i].window;
    for (int64_t t = 0; t < tokens; t += kChunk) {
      const Tensor chunk = x.rows(0, std::min(kChunk, tokens - t));
      cache.layers[i]->attend(*ops_, none, chunk, chunk, shape, none);
    }
  }
}

}  // namespace turboquant
