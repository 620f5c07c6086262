#include "models/summary.h"

#include <array>

#include "io/config.h"
#include "io/mlx_quantization.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

constexpr std::array kParts = {".scales", ".biases", ".codebook", ".qjl_packed", ".qjl_norms"};  // beside MODULE.weight

bool is_part(const std::string& tensor) {
  for (const char* part : kParts)
    if (tensor.ends_with(part)) return true;
  return tensor.ends_with(".signs") || tensor.ends_with(".qjl_signs");
}

/// How a matrix is stored, and how many weights it stands for.
std::pair<std::string, uint64_t> describe_matrix(const Checkpoint& checkpoint, const TensorInfo& tensor,
                                                 const std::string& module) {
  const TensorInfo* scales = checkpoint.find(module + ".scales");
  if (scales != nullptr && tensor.dtype == DType::u8 && tensor.shape.rank() == 3)
    for (const int bits : {2, 3, 4, 8})
      if (tensor.shape.back() == block_bytes(bits))
        return {bits == 8 ? "int8 rows" : "TCQ16 " + std::to_string(bits) + " bits",
                static_cast<uint64_t>(scales->shape[0] * tensor.shape[1] * kGroup)};
  if (scales != nullptr && tensor.dtype == DType::u32) {
    const std::string where = checkpoint.path().string();
    if (const auto mlx = MlxQuantization::of(checkpoint.config(), where)) {
      const MlxLayout& layout = mlx->layout(expert_stack(module));
      return {layout.name(), static_cast<uint64_t>(scales->shape.elements() * layout.group_size)};
    }
    const int64_t group =
        config_integer_or(config_object(checkpoint.config(), where, "quantization"), where, "group_size", 64);
    const char* qjl = checkpoint.find(module + ".qjl_packed") != nullptr ? " + QJL" : "";
    return {std::string("TurboQuant (original)") + qjl, static_cast<uint64_t>(scales->shape.elements() * group)};
  }
  return {std::string(name(tensor.dtype)), static_cast<uint64_t>(tensor.shape.elements())};
}

void add(Share& share, uint64_t weights, uint64_t bytes) {
  share.tensors += 1;
  share.weights += weights;
  share.bytes += bytes;
}

}  // namespace

Summary summarize(const Checkpoint& checkpoint) {
  Summary summary;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    summary.all.bytes += tensor.bytes();
    const Role role = role_of(tensor.name);
    if (role == Role::other) {
      if (is_part(tensor.name)) continue;
      const std::string module(module_of(tensor.name));  // MLX compresses routers as well
      summary.all.weights += module.empty() ? static_cast<uint64_t>(tensor.shape.elements())
                                            : describe_matrix(checkpoint, tensor, module).second;
      continue;
    }
    const std::string module(module_of(tensor.name));
    const auto [storage, weights] = describe_matrix(checkpoint, tensor, module);
    uint64_t bytes = tensor.bytes();
    for (const char* part : kParts)
      if (const TensorInfo* extra = checkpoint.find(module + part)) bytes += extra->bytes();
    add(summary.matrices[{role, storage}], weights, bytes);
    if (role == Role::linear) add(summary.linear, weights, bytes);
    if (role == Role::linear && expert_number(module) >= 0) add(summary.experts, weights, bytes);
    summary.all.tensors += 1;
    summary.all.weights += weights;
  }
  return summary;
}

}  // namespace turboquant
