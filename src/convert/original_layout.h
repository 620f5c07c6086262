// How the original's files name and lay out what they hold: as mlx-lm's models do, which it loads and saves with.
#pragma once

#include <string>
#include <string_view>

#include "io/checkpoint.h"

namespace turboquant {

class OriginalLayout {
 public:
  /// `source`: the language model to be converted, which must outlive this.
  explicit OriginalLayout(const Checkpoint& source);

  /// True for tensors that mlx-lm does not keep: an output head beside a tied embedding, tables that are computed.
  bool leaves_out(std::string_view tensor) const;
  /// The name in the file. The tensors of all experts of a layer have one, that of their stack.
  std::string name(std::string_view tensor) const;
  /// The type and shape of a tensor of the source that stays.
  TensorInfo stored(const TensorInfo& tensor) const;
  /// Its values.
  Tensor store(std::string_view name, const Tensor& tensor) const;
  /// config.json with the keys that mlx-lm reads where the source says the same in others.
  nlohmann::json config(const nlohmann::json& config) const;
  /// Why the original could not run the result, or empty.
  const std::string& note() const { return note_; }

 private:
  bool adds_one(std::string_view tensor) const;

  std::string type_, note_;     // type_: config.json's model_type
  bool tied_ = false;           // the head is the embedding
  bool nested_ = false;         // the model is within language_model.
  size_t interval_ = 0;         // full_attention_interval, where config.json has layer_types alone
  bool norms_are_low_ = false;  // the source stores the weights of norms around 0, mlx-lm around 1
};

}  // namespace turboquant
