// What config.json says of the weights that MLX quantized (mlx-lm's checkpoints): one layout for all modules, and
// others for those that it names.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace turboquant {

/// How the matrix of a module is stored: U32 words of codes, and a scale a group.
struct MlxLayout {
  std::string mode = "affine";  // "affine": scales and biases are floating point; "mxfp4": scales are U8, no biases
  int bits = 4;                 // affine: 2, 3, 4, 5, 6, 8; mxfp4: 4
  int group_size = 64;          // affine: 32, 64, 128; mxfp4: 32

  /// "affine 4 bits" or "mxfp4"
  std::string name() const;
};

class MlxQuantization {
 public:
  /// Nothing if config.json has no 'quantization', or one of TurboQuant's (mode "turboquant"). Error: modes, bits or
  /// groups that are not read here, with the module's name. `where` is the model's path.
  static std::optional<MlxQuantization> of(const nlohmann::json& config, const std::string& where);

  /// Of all modules that have none of their own.
  const MlxLayout& common() const { return common_; }
  /// Of a module by the name that open_checkpoint() gives it; of an expert by what all share, "X.mlp.experts.up_proj".
  const MlxLayout& layout(std::string_view module) const;

 private:
  MlxLayout common_;
  std::map<std::string, MlxLayout, std::less<>> modules_;
};

}  // namespace turboquant
