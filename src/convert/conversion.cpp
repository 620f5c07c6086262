#include "convert/conversion.h"

#include <algorithm>

#include "core/interrupt.h"
#include "core/progress.h"
#include "core/random.h"
#include "quant/affine.h"
#include "quant/original.h"
#include "quant/rotation.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

constexpr const char* kFormatNames[] = {"tcq16", "original", "affine"};

std::vector<float> codebook_values(int bits) {
  const Tensor values = to_float(original_codebook(bits));
  return {values.data<float>(), values.data<float>() + values.elements()};
}

}  // namespace

Conversion::Conversion(const Checkpoint& source, const ConversionSpec& spec) : source_(source), spec_(spec) {
  const nlohmann::json& config = source.config();
  for (const char* key : {"quantization", "quantization_config"})
    if (config.contains(key) && !config.at(key).is_null())
      throw Error(source.path().string() + ": config.json has '" + key +
                  "': the model is compressed already; convert the original weights");
  for (const TensorInfo& tensor : source.tensors()) {
    Item item{tensor, std::nullopt, std::string(module_of(tensor.name)), "", {}};
    parameters_ += static_cast<uint64_t>(tensor.shape.elements());
    const Role role = role_of(tensor.name);
    if (const std::optional<QuantSpec> quant = spec_for(tensor, role)) {
      plan_quantized(item, *quant);
      if (role == Role::linear) {
        ++linear_layers_;
        has_experts_ = has_experts_ || expert_stack(item.module) != item.module;
        linear_weights_ += static_cast<uint64_t>(tensor.shape.elements());
        for (const TensorInfo& output : item.outputs) linear_bytes_ += output.bytes();
      }
    } else {
      item.outputs.push_back(tensor);
      if (spec.dtype && is_float(tensor.dtype)) item.outputs.back().dtype = *spec.dtype;
    }
    items_.push_back(std::move(item));
  }
  if (linear_layers_ == 0)
    throw Error(source.path().string() + ": no linear layer to compress: " +
                (warnings_.empty() ? "the checkpoint has none that this version knows" : warnings_.front()));
}

std::optional<QuantSpec> Conversion::spec_for(const TensorInfo& tensor, Role role) {
  if (role == Role::other) return std::nullopt;
  if (tensor.shape.rank() != 2 || !is_float(tensor.dtype))
    throw Error(source_.path().string() + ": tensor '" + tensor.name + "': " + std::string(name(tensor.dtype)) + " " +
                to_string(tensor.shape) + ", expected F32, F16 or BF16 of two dimensions");
  QuantSpec quant = spec_.linear;
  if (quant.method == QuantSpec::Method::tcq16 && role != Role::linear) {
    if (spec_.head_bits == 16) return std::nullopt;
    quant.bits = spec_.head_bits;
  }
  // The original leaves embeddings, and so a tied head, as they are; affine is compared on the same tensors.
  if (quant.method != QuantSpec::Method::tcq16 && role == Role::embedding) return std::nullopt;
  const int64_t cols = tensor.shape.back();
  if (quant.fits(cols)) return quant;
  const int multiple = quant.method == QuantSpec::Method::tcq16 ? kGroup : quant.group_size;
  warnings_.push_back("Skipping " + std::string(module_of(tensor.name)) + ": its width " + std::to_string(cols) +
                      " is not divisible by " + std::to_string(multiple) + "; it stays as it is");
  return std::nullopt;
}

void Conversion::plan_quantized(Item& item, const QuantSpec& quant) {
  item.quant = quant;
  const int64_t rows = item.source.shape[0], cols = item.source.shape[1];
  const std::string& module = item.module;
  const int64_t scales = cols / quant.group_size;
  switch (quant.method) {
    case QuantSpec::Method::tcq16:
      item.outputs = {{module + ".weight", DType::u8, {tile_count(rows), cols / kGroup, block_bytes(quant.bits)}},
                      {module + ".scales", DType::f16, {rows}}};
      item.site = input_site(module);
      break;
    case QuantSpec::Method::original:
      item.outputs = {{module + ".weight", DType::u32, {rows, original_words(quant.bits, cols)}},
                      {module + ".scales", DType::f16, {rows, scales}},
                      {module + ".codebook", DType::f16, {int64_t{1} << quant.bits}}};
      item.site = expert_stack(module);  // a rotation a layer, as there, and one for all its experts
      break;
    case QuantSpec::Method::affine:
      item.outputs = {{module + ".weight", DType::u32, {rows, affine_words(quant.bits, cols)}},
                      {module + ".scales", quant.affine_dtype, {rows, scales}},
                      {module + ".biases", quant.affine_dtype, {rows, scales}}};
      return;
  }
  if (spec_.rotate) sites_[item.site] = cols;
}

std::vector<TensorInfo> Conversion::outputs() const {
  std::vector<TensorInfo> all;
  for (const Item& item : items_) all.insert(all.end(), item.outputs.begin(), item.outputs.end());
  const DType signs = spec_.linear.method == QuantSpec::Method::tcq16 ? DType::i8 : DType::f16;
  for (const auto& [site, width] : sites_) all.push_back({site + ".signs", signs, {width}});
  return all;
}

nlohmann::json Conversion::config() const {
  nlohmann::json config = source_.config();
  config.erase("_name_or_path");
  config.erase("vision_config");
  const QuantSpec& linear = spec_.linear;
  const bool tcq16 = linear.method == QuantSpec::Method::tcq16;
  nlohmann::json quantization = {{"bits", linear.bits}, {"group_size", tcq16 ? kGroup : linear.group_size}};
  if (linear.method != QuantSpec::Method::affine) {
    quantization["mode"] = "turboquant";
    quantization["rotation"] = spec_.rotate ? "hadamard" : "none";
    quantization["rotation_seed"] = spec_.rotation_seed;
  }
  if (tcq16) {
    quantization["format"] = kFormatNames[0];
    quantization["head_bits"] = spec_.head_bits;
  } else if (linear.method == QuantSpec::Method::original) {
    quantization["use_qjl"] = false;
    quantization["fuse_rotations"] = false;
    quantization["codebook"] = codebook_values(linear.bits);
  }
  config["quantization"] = quantization;
  config["quantization_config"] = quantization;
  if (spec_.dtype)
    config[config.contains("dtype") ? "dtype" : "torch_dtype"] = *spec_.dtype == DType::f16    ? "float16"
                                                                 : *spec_.dtype == DType::bf16 ? "bfloat16"
                                                                                               : "float32";
  return config;
}

double Conversion::bits_per_weight_linear() const {
  return 8.0 * static_cast<double>(linear_bytes_) / static_cast<double>(linear_weights_);
}

void Conversion::run(ThreadPool& pool, const std::function<void(const std::string&, const Tensor&)>& sink) const {
  int64_t total = 0;
  for (const Item& item : items_) total += static_cast<int64_t>(item.source.bytes());
  Progress progress("Quantizing", total, Progress::Unit::bytes);

  std::map<std::string, Rotation> rotations;
  for (const auto& [site, width] : sites_) {
    const Rotation rotation = make_rotation(width, spec_.rotation_seed + path_hash(site));
    rotations[site] = rotation;
    const auto* signs = rotation.signs.data<float>();
    if (spec_.linear.method == QuantSpec::Method::tcq16) {
      Tensor stored = Tensor::zeros(DType::i8, {width});
      std::transform(signs, signs + width, stored.data<int8_t>(), [](float s) { return static_cast<int8_t>(s); });
      sink(site + ".signs", stored);
    } else {
      sink(site + ".signs", from_float(signs, {width}, DType::f16));
    }
  }
  for (const Item& item : items_) {
    check_interrupt();
    const Tensor tensor = source_.read(item.source.name);
    if (!item.quant) {
      const TensorInfo& output = item.outputs.front();
      sink(output.name, output.dtype == tensor.dtype()
                            ? tensor
                            : from_float(to_float(tensor).data<float>(), tensor.shape(), output.dtype));
    } else {
      const Tensor values = to_float(tensor);
      const auto rotation = rotations.find(item.site);
      Weight weight;
      try {
        weight = quantize(values.data<float>(), values.dim(0), values.dim(1),
                          rotation == rotations.end() ? Rotation() : rotation->second, *item.quant, &pool);
      } catch (const Error& error) {
        throw Error(source_.path().string() + ": tensor '" + item.source.name + "' " + error.what());
      }
      sink(item.module + ".weight", weight.data);
      sink(item.module + ".scales", weight.scales);
      if (weight.codebook) sink(item.module + ".codebook", weight.codebook);
      if (weight.biases) sink(item.module + ".biases", weight.biases);
    }
    progress.advance(static_cast<int64_t>(item.source.bytes()));
  }
}

namespace {

class MemoryCheckpoint final : public Checkpoint {
 public:
  MemoryCheckpoint(const Checkpoint& source, const Conversion& conversion, ThreadPool& pool) : source_(source) {
    path_ = source.path();
    config_ = conversion.config();
    tensors_ = conversion.outputs();
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    conversion.run(pool, [this](const std::string& name, const Tensor& tensor) {
      size_ += tensor.bytes();
      values_[name] = tensor;
    });
  }

  Tensor read(std::string_view name) const override {
    const auto found = values_.find(name);
    if (found == values_.end()) throw Error(path_.string() + ": tensor '" + std::string(name) + "' is missing");
    return found->second;
  }
  std::optional<std::string> file(std::string_view name) const override { return source_.file(name); }
  uint64_t size_on_disk() const override { return size_; }

 private:
  const Checkpoint& source_;
  std::map<std::string, Tensor, std::less<>> values_;
  uint64_t size_ = 0;
};

}  // namespace

std::unique_ptr<Checkpoint> convert_in_memory(const Checkpoint& source, const Conversion& conversion,
                                              ThreadPool& pool) {
  return std::make_unique<MemoryCheckpoint>(source, conversion, pool);
}

}  // namespace turboquant
