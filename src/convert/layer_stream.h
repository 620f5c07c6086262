// A text on its way through the layers of a model, one of which is in memory.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "convert/overlay_checkpoint.h"
#include "models/model.h"

namespace turboquant {

/// "model.layers.7."
std::string layer_prefix(int64_t layer);

class LayerStream {
 public:
  /// `source` must outlive this; `config`: config.json of what checkpoint() will hold.
  LayerStream(const Checkpoint& source, nlohmann::json config, const std::shared_ptr<ThreadPool>& pool)
      : checkpoint_(source, std::move(config)), ops_(make_cpu_ops(pool)) {}

  /// What layers are loaded from. What is put here takes the place of the source's tensors.
  OverlayCheckpoint& checkpoint() { return checkpoint_; }
  /// Where the weights of a tensor lie, by which an observer knows products with them.
  const void* weights(const std::string& tensor) const { return checkpoint_.read(tensor).data<std::byte>(); }

  /// Brings a text, sequence by sequence, to the first layer.
  void embed(const std::vector<std::vector<int32_t>>& text);
  /// The layer that run() runs, as checkpoint() has it now.
  void load(int64_t layer) { model_ = load_model(checkpoint_, ops_, {.only_layer = layer}); }
  /// Runs sequence i through the layer until `stop` is true of some products; these and all that would follow are not
  /// computed, and the sequence stays where it was. True if it is behind the layer.
  bool run(size_t i, std::span<const int32_t> tokens, const std::function<bool(std::span<const Product>)>& stop);
  /// The layer's tensors.
  void forget(int64_t layer);

 private:
  OverlayCheckpoint checkpoint_;
  std::shared_ptr<Ops> ops_;
  std::unique_ptr<Model> model_;
  std::vector<Tensor> states_;  // of each sequence: F32 [tokens, hidden_size]
};

}  // namespace turboquant
