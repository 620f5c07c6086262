#include "nn/linear.h"

#include <cmath>

#include "core/half.h"
#include "core/mxfp4.h"
#include "io/config.h"
#include "nn/roles.h"
#include "quant/qjl.h"
#include "quant/rotation.h"
#include "quant/tile.h"

namespace turboquant {

const Activations& PreparedInput::of(const Linear& layer) {
  const float* signs = layer.rotation.signs.data<float>();
  const bool integers = !exact_ && layer.weight.kind == Weight::Kind::tiled;
  for (const Entry& entry : entries_)
    if (entry.signs == signs && entry.integers == integers) return entry.activations;
  entries_.push_back({signs, integers, ops_.prepare(x_, layer.rotation, !integers)});
  return entries_.back().activations;
}

std::vector<Tensor> project(Ops& ops, const Tensor& x, std::initializer_list<const Linear*> layers, bool exact) {
  PreparedInput input(ops, x, exact);
  std::vector<Product> products;
  for (const Linear* layer : layers) products.push_back({&input.of(*layer), {&layer->weight, &layer->bias}, {}});
  return ops.matmul_each(products);
}

std::string Loader::part(const std::string& module, const char* name) const {
  return has(module + name) ? module + name : expert_stack(module) + name;
}

void Loader::fail(const std::string& tensor, const std::string& why) const {
  throw Error(checkpoint_.path().string() + ": tensor '" + tensor + "': " + why);
}

Tensor Loader::read(const std::string& tensor, DType dtype, const Shape& shape) {
  const TensorInfo* info = checkpoint_.find(tensor);
  if (info == nullptr) fail(tensor, "missing");
  if (info->dtype != dtype || info->shape != shape)
    fail(tensor, std::string(name(info->dtype)) + " " + to_string(info->shape) + ", expected " +
                     std::string(name(dtype)) + " " + to_string(shape) + " from config.json");
  return checkpoint_.read(tensor);
}

Tensor Loader::vector(const std::string& tensor, int64_t length) {
  const TensorInfo* info = checkpoint_.expect(tensor, {length});
  if (info == nullptr) fail(tensor, "missing");
  if (!is_float(info->dtype)) fail(tensor, "expected F32, F16 or BF16, got " + std::string(name(info->dtype)));
  return to_float(read(tensor, info->dtype, {length}));
}

Tensor Loader::norm(const std::string& tensor, int64_t length, float offset) {
  const Tensor stored = vector(tensor, length);
  Tensor weight = Tensor::zeros(DType::f32, {length});
  for (int64_t i = 0; i < length; ++i) weight.data<float>()[i] = stored.data<float>()[i] + offset;
  return weight;
}

Tensor Loader::depthwise(const std::string& tensor, int64_t channels, int64_t taps) {
  const TensorInfo* info = checkpoint_.expect(tensor, {channels, 1, taps});
  if (info == nullptr) fail(tensor, "missing");
  if (!is_float(info->dtype)) fail(tensor, "expected F32, F16 or BF16, got " + std::string(name(info->dtype)));
  const bool taps_last = info->shape.rank() == 3 && info->shape.back() == taps;
  const Tensor stored =
      to_float(read(tensor, info->dtype, taps_last ? Shape{channels, 1, taps} : Shape{channels, taps, 1}));
  Tensor weight = Tensor::zeros(DType::f32, {taps, channels});
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < taps; ++t) weight.data<float>()[t * channels + c] = stored.data<float>()[c * taps + t];
  return weight;
}

Linear Loader::linear(const std::string& module, int64_t rows, int64_t cols, bool table) {
  Linear layer;
  const TensorInfo* info = checkpoint_.expect(module + ".weight", {rows, cols});
  if (info == nullptr) fail(module + ".weight", "missing");
  if (info->dtype == DType::u8) {
    layer.weight = tiled(module, rows, cols);
    if (repacking_ && !table) layer.weight.repacked = repacking_->of(layer.weight);
    layer.rotation = rotation(input_site(module) + ".signs", cols);
  } else if (info->dtype == DType::u32) {
    layer.weight = packed(module, rows, cols);
    if (layer.weight.kind == Weight::Kind::grouped) layer.rotation = rotation(part(module, ".signs"), cols);
  } else {
    layer.weight = dense(module, rows, cols);
  }
  if (has(module + ".bias")) layer.bias = vector(module + ".bias", rows);
  return layer;
}

Weight Loader::dense(const std::string& module, int64_t rows, int64_t cols) {
  const TensorInfo* info = checkpoint_.find(module + ".weight");
  if (!is_float(info->dtype))
    fail(module + ".weight", std::string(name(info->dtype)) + " is no type of weights; expected F32, F16 or BF16");
  Weight weight;
  weight.rows = rows;
  weight.cols = cols;
  weight.bits = static_cast<int>(8 * item_size(info->dtype));
  weight.data = read(module + ".weight", info->dtype, {rows, cols});
  return weight;
}

Weight Loader::tiled(const std::string& module, int64_t rows, int64_t cols) {
  const TensorInfo* info = checkpoint_.find(module + ".weight");
  Weight weight;
  weight.kind = Weight::Kind::tiled;
  weight.rows = rows;
  weight.cols = cols;
  weight.bits = 0;
  for (const int bits : {2, 3, 4, 8})
    if (info->shape.rank() == 3 && info->shape.back() == block_bytes(bits)) weight.bits = bits;
  if (weight.bits == 0) fail(module + ".weight", to_string(info->shape) + " is no block layout of 2, 3, 4 or 8 bits");
  weight.data = read(module + ".weight", DType::u8, {tile_count(rows), cols / kGroup, block_bytes(weight.bits)});
  weight.scales = finite_halves(module + ".scales", rows);
  return weight;
}

Tensor Loader::finite_halves(const std::string& tensor, int64_t length) {
  Tensor values = read(tensor, DType::f16, {length});
  for (int64_t i = 0; i < length; ++i)
    if (!std::isfinite(half_to_float(values.data<uint16_t>()[i]))) fail(tensor, "contains NaN or Inf");
  return values;
}

// The original's files (with a codebook), and MLX's: affine (with biases) and MXFP4 (with scales of a byte).
Weight Loader::packed(const std::string& module, int64_t rows, int64_t cols) {
  const TensorInfo* info = checkpoint_.find(module + ".weight");
  const TensorInfo* scales = checkpoint_.find(module + ".scales");
  const TensorInfo* codebook = checkpoint_.find(part(module, ".codebook"));
  if (scales == nullptr) fail(module + ".scales", "missing");
  if (info->shape.rank() != 2 || scales->shape.rank() != 2 || scales->shape.back() < 1 ||
      cols % scales->shape.back() != 0)
    fail(module + ".scales", to_string(scales->shape) + " does not divide rows of " + std::to_string(cols));
  Weight weight;
  weight.rows = rows;
  weight.cols = cols;
  weight.group_size = static_cast<int>(cols / scales->shape.back());
  if (codebook != nullptr) {
    weight.kind = Weight::Kind::grouped;
    for (const int bits : {2, 3, 4})
      if (codebook->shape == Shape{1 << bits}) weight.bits = bits;
    if (weight.bits == 16) fail(module + ".codebook", to_string(codebook->shape) + " is no codebook of 2, 3 or 4 bits");
    const int per_word = 32 / weight.bits;
    weight.data = read(module + ".weight", DType::u32, {rows, (cols + per_word - 1) / per_word});
    weight.scales = read(module + ".scales", DType::f16, {rows, scales->shape.back()});
    weight.codebook = read(part(module, ".codebook"), DType::f16, {1 << weight.bits});
    if (qjl_ && has(module + ".qjl_packed")) weight.qjl = residual(module, rows, cols);
    return weight;
  }
  const int64_t words = info->shape.back();
  if (scales->dtype == DType::u8) {
    if (8 * words != cols || weight.group_size != kMxfp4Block)
      fail(module + ".weight", "a floating-point format of MLX that is not supported; of these, mxfp4 is");
    weight.kind = Weight::Kind::mxfp4;
    weight.bits = 4;
    weight.data = read(module + ".weight", DType::u32, {rows, words});
    weight.scales = read(module + ".scales", DType::u8, {rows, cols / kMxfp4Block});
    return weight;
  }
  weight.kind = Weight::Kind::affine;
  weight.bits = static_cast<int>(32 * words / cols);
  if (weight.bits < 2 || weight.bits > 8 || weight.bits == 7 || 32 * words != cols * weight.bits)
    fail(module + ".weight", to_string(info->shape) + " is no affine layout of 2, 3, 4, 5, 6 or 8 bits");
  if (!is_float(scales->dtype)) fail(module + ".scales", std::string(name(scales->dtype)) + " is no type of scales");
  weight.data = read(module + ".weight", DType::u32, {rows, words});
  weight.scales = read(module + ".scales", scales->dtype, {rows, scales->shape.back()});
  weight.biases = read(module + ".biases", scales->dtype, {rows, scales->shape.back()});
  return weight;
}

QjlResidual Loader::residual(const std::string& module, int64_t rows, int64_t cols) {
  const std::string signs = module + ".qjl_signs";
  if (!has(signs)) fail(signs, "missing");
  return {read(module + ".qjl_packed", DType::u32, {rows, qjl_words(cols)}), finite_halves(module + ".qjl_norms", rows),
          rotation(signs, cols)};
}

Rotation Loader::rotation(const std::string& tensor, int64_t width) {
  const auto known = rotations_.find(tensor);
  if (known != rotations_.end()) return known->second;
  Rotation rotation;
  if (const TensorInfo* info = checkpoint_.find(tensor)) {
    rotation.block = hadamard_block(width);
    if (info->dtype == DType::i8) {
      const Tensor stored = read(tensor, DType::i8, {width});
      rotation.signs = Tensor::zeros(DType::f32, {width});
      for (int64_t i = 0; i < width; ++i) rotation.signs.data<float>()[i] = stored.data<int8_t>()[i];
    } else {
      rotation.signs = vector(tensor, width);
    }
    for (int64_t i = 0; i < width; ++i)
      if (std::abs(rotation.signs.data<float>()[i]) != 1.0F) fail(tensor, "signs must be +1 or -1");
  } else {
    const std::string where = checkpoint_.path().string();
    if (config_string_or(config_object(checkpoint_.config(), where, "quantization"), where, "rotation", "none") !=
        "none")
      fail(tensor, "missing, though config.json says that the weights are rotated; convert the model again");
  }
  return rotations_[tensor] = rotation;
}

}  // namespace turboquant
