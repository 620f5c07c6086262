// A language model: one forward step for generation, evaluation and serving alike.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/layer_memory.h"
#include "io/checkpoint.h"
#include "nn/attention.h"
#include "nn/linear.h"
#include "nn/rope.h"
#include "ops/ops.h"

namespace turboquant {

/// One sequence's part of a step: its next tokens, at the positions behind what its cache remembers.
struct SequenceTokens {
  Cache* cache = nullptr;
  std::span<const int32_t> tokens;
  int64_t logits_from = 0;  // logits are computed for tokens[logits_from ..]
};

struct Batch;

struct ModelInfo {
  std::string architecture;  // config.json's model_type
  int64_t n_layers = 0, hidden_size = 0, intermediate_size = 0, vocab_size = 0, max_context = 0;
  int64_t attention_layers = 0;  // those that keep keys and values; the others are of linear attention
  AttentionShape attention;
  bool tied_head = false;
};

struct ModelOptions {
  bool exact = false;                      // fp32 activations instead of int8
  CacheOptions cache = {};                 // of make_cache()
  bool qjl = true;                         // with the QJL residuals of the original's files
  bool repack = false;                     // with copies of matrices that the backend multiplies faster
  std::optional<int64_t> only_layer = {};  // of all layers this one alone is loaded: for run_layer(), not for forward()
};

class Model {
 public:
  virtual ~Model() = default;

  /// Logits F32 [rows, vocab_size] of the tokens asked for, sequence by sequence, valid until the next call. Caches
  /// grow by the tokens. The result of a token does not depend on how a prompt is cut into steps, nor on which other
  /// sequences are in the step: it is the same to the last bit. Error: a token outside the vocabulary, a position
  /// beyond max_context.
  Tensor forward(std::span<const SequenceTokens> batch);

  /// The same step without the head: what the final norm makes of all tokens of the batch, F32 [tokens, hidden_size].
  Tensor hidden(std::span<const SequenceTokens> batch);

  /// The parts of forward(), for those that stream a model layer by layer. What tokens are before the first layer: F32
  /// [tokens, hidden_size].
  Tensor embed(std::span<const int32_t> tokens);
  /// What a layer (counted among the loaded ones) makes of x, F32 [tokens of the batch, hidden_size].
  Tensor run_layer(size_t layer, const Tensor& x, std::span<const SequenceTokens> batch);
  /// Logits F32 [rows, vocab_size] of what the last layer made.
  Tensor logits(const Tensor& x);

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
  Model(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops, const ModelOptions& options);

  /// The layers to load.
  int64_t first_layer() const { return options_.only_layer.value_or(0); }
  int64_t end_layer() const { return options_.only_layer ? *options_.only_layer + 1 : info_.n_layers; }
  /// Reads what lies before and behind the layers; `norm_offset` as in Loader::norm().
  void load_ends(Loader& loader, float norm_offset);
  /// A layer of the architecture: x F32 [tokens, hidden_size] -> the same shape.
  virtual Tensor layer(size_t index, const Tensor& x, const Step& step) = 0;

  ModelInfo info_;
  std::shared_ptr<Ops> ops_;
  ModelOptions options_;
  Rope rope_;
  float eps_;

 private:
  /// What the last layer makes of all tokens.
  Tensor run_layers(const Batch& batch);

  Linear embedding_;  // model.embed_tokens
  Tensor norm_;       // model.norm.weight
  Linear head_;       // lm_head, or the embedding
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
