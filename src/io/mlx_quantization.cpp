#include "io/mlx_quantization.h"

#include "io/checkpoint.h"
#include "io/config.h"
#include "io/experts.h"
#include "io/files.h"

namespace turboquant {
namespace {

constexpr const char* kQuantization = "quantization";

MlxLayout read_layout(const nlohmann::json& entry, const std::string& where, const std::string& module) {
  const std::string at = where + ": config.json: quantization" + (module.empty() ? "" : " of " + quote(module)) + ": ";
  MlxLayout layout;
  layout.mode = config_string_or(entry, where, "mode", layout.mode);
  const bool mxfp4 = layout.mode == "mxfp4";
  if (!mxfp4 && layout.mode != "affine")
    throw Error(at + "mode " + quote(layout.mode) + " is not supported; affine and mxfp4 are");
  layout.bits = static_cast<int>(config_integer_or(entry, where, "bits", 4));
  layout.group_size = static_cast<int>(config_integer_or(entry, where, "group_size", mxfp4 ? 32 : 64));
  const bool bits_fit = mxfp4 ? layout.bits == 4 : layout.bits >= 2 && layout.bits <= 8 && layout.bits != 7;
  const bool group_fits = layout.group_size == 32 || (!mxfp4 && (layout.group_size == 64 || layout.group_size == 128));
  if (!bits_fit || !group_fits)
    throw Error(at + layout.mode + " has no " + std::to_string(layout.bits) + " bits in groups of " +
                std::to_string(layout.group_size));
  return layout;
}

}  // namespace

std::string MlxLayout::name() const { return mode == "affine" ? "affine " + std::to_string(bits) + " bits" : mode; }

std::optional<MlxQuantization> MlxQuantization::of(const nlohmann::json& config, const std::string& where) {
  const nlohmann::json object = config_object(config, where, kQuantization);
  if (object.empty() || config_string_or(object, where, "mode", "") == "turboquant") return std::nullopt;
  MlxQuantization quantization;
  quantization.common_ = read_layout(object, where, "");
  for (const auto& [key, value] : object.items()) {
    if (!value.is_object()) continue;  // a number or a name of all; false: the module is not quantized
    // The names of the files become those of open_checkpoint().
    quantization.modules_[shared_expert_module(language_model_name(key))] = read_layout(value, where, key);
  }
  return quantization;
}

const MlxLayout& MlxQuantization::layout(std::string_view module) const {
  const auto found = modules_.find(module);
  return found == modules_.end() ? common_ : found->second;
}

}  // namespace turboquant
