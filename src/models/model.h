// A language model: one forward step for generation, evaluation and serving alike.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/layer_memory.h"
#include "io/checkpoint.h"
#include "ops/ops.h"

namespace turboquant {

/// One sequence's part of a step: its next tokens, at the positions behind what its cache remembers.
struct SequenceTokens {
  Cache* cache = nullptr;
  std::span<const int32_t> tokens;
  int64_t logits_from = 0;  // logits are computed for tokens[logits_from ..]
};

struct ModelInfo {
  std::string architecture;  // config.json's model_type
  int64_t n_layers = 0, hidden_size = 0, intermediate_size = 0, vocab_size = 0, max_context = 0;
  int64_t attention_layers = 0;  // those that keep keys and values; the others are of linear attention
  AttentionShape attention;
  bool tied_head = false;
};

struct ModelOptions {
  bool exact = false;  // fp32 activations instead of int8
  CacheOptions cache;  // of make_cache()
  bool qjl = true;     // with the QJL residuals of the original's files
};

class Model {
 public:
  virtual ~Model() = default;

  /// Logits F32 [rows, vocab_size] of the tokens asked for, sequence by sequence, valid until the next call. Caches
  /// grow by the tokens. The result of a token does not depend on how a prompt is cut into steps, nor on which other
  /// sequences are in the step: it is the same to the last bit. Error: a token outside the vocabulary, a position
  /// beyond max_context.
  virtual Tensor forward(std::span<const SequenceTokens> batch) = 0;

  const ModelInfo& info() const { return info_; }
  Ops& ops() { return *ops_; }
  /// What make_cache() keeps, layer by layer.
  virtual std::vector<LayerMemory> layer_memory() const = 0;
  Cache make_cache() const { return make_cache(options_.cache); }
  /// As other options would make it. Error: heads that cannot be compressed.
  Cache make_cache(const CacheOptions& options) const { return turboquant::make_cache(layer_memory(), options); }
  /// Fills the keys and values of an empty cache with random ones, as if so many tokens had been read: to measure the
  /// speed at a depth without reading a text. States of linear layers stay as they are.
  void fill_randomly(Cache& cache, int64_t tokens);

 protected:
  Model(ModelInfo info, std::shared_ptr<Ops> ops, ModelOptions options)
      : info_(std::move(info)), ops_(std::move(ops)), options_(options) {}

  ModelInfo info_;
  std::shared_ptr<Ops> ops_;
  ModelOptions options_;
};

/// The model of a checkpoint, by config.json's model_type. Error: unknown architecture, missing or misshapen tensors.
std::unique_ptr<Model> load_model(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops,
                                  const ModelOptions& options = {});

/// Whether a layer is one of linear attention, by config.json's layer_types or, of a model that has linear attention,
/// by full_attention_interval (4): every so many layers the last is one of full attention. `config` is a text_config().
bool is_linear_attention(const nlohmann::json& config, const std::string& where, int64_t layer);

/// What config.json says of a model, without its weights.
ModelInfo model_info(const nlohmann::json& config, const std::string& where);

}  // namespace turboquant
