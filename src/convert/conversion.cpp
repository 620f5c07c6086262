#include "convert/conversion.h"

#include <algorithm>

#include "core/interrupt.h"
#include "core/progress.h"
#include "core/random.h"
#include "io/experts.h"
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

const Checkpoint& not_compressed(const Checkpoint& source) {
  for (const char* key : {"quantization", "quantization_config"})
    if (source.config().contains(key) && !source.config().at(key).is_null())
      throw Error(source.path().string() + ": config.json has '" + key +
                  "': the model is compressed already; convert the original weights");
  return source;
}

}  // namespace

Conversion::Conversion(const Checkpoint& source, const ConversionSpec& spec)
    : source_(not_compressed(source)),
      spec_(spec),
      precision_(source, spec.linear.method, spec.linear.bits,
                 spec.linear.method == QuantSpec::Method::tcq16 ? spec.head_bits : spec.linear.bits, spec.bits_for) {
  items_ = collect();
  for (Item& item : items_) plan(item);
  if (linear_layers_ == 0)
    throw Error(source.path().string() + ": no linear layer to compress: " +
                (warnings_.empty() ? "the checkpoint has none that this version knows" : warnings_.front()));
}

// The tensors of the source; those of experts that the format stacks, together.
std::vector<Conversion::Item> Conversion::collect() const {
  std::vector<Item> items;
  std::map<std::string, std::map<int64_t, TensorInfo>> stacks;
  for (const TensorInfo& tensor : source_.tensors()) {
    const std::string stack = expert_stack(tensor.name);
    if (spec_.linear.method != QuantSpec::Method::tcq16 && stack != tensor.name) {
      stacks[stack][expert_number(tensor.name)] = tensor;
    } else {
      items.emplace_back().sources = {tensor};
    }
  }
  for (const auto& [stack, experts] : stacks) {
    Item& item = items.emplace_back();
    item.stacked = true;
    for (const auto& [expert, tensor] : experts) {
      if (expert != static_cast<int64_t>(item.sources.size()) || tensor.shape != experts.begin()->second.shape)
        throw Error(source_.path().string() + ": tensor " + describe(tensor) +
                    ": experts cannot be stacked: one is missing, or their shapes differ");
      item.sources.push_back(tensor);
    }
  }
  return items;
}

// MLX names the stacks of experts switch_mlp, but for gpt-oss, and keeps Mixtral's name of their block.
std::string Conversion::output_name(std::string_view name) const {
  if (spec_.linear.method == QuantSpec::Method::tcq16) return std::string(name);
  std::string result = expert_stack(name);
  const std::string type = source_.config().value("model_type", "");
  const auto replace = [&](std::string_view part, std::string_view other) {
    if (const size_t at = result.find(part); at != result.npos) result.replace(at, part.size(), other);
  };
  if (type != "gpt_oss" && result != name) replace(".mlp.experts.", ".mlp.switch_mlp.");
  if (type == "mixtral") replace(".mlp.", ".block_sparse_moe.");
  return result;
}

void Conversion::plan(Item& item) {
  const TensorInfo& tensor = item.sources.front();
  const std::string name = output_name(tensor.name);
  const auto count = static_cast<int64_t>(item.sources.size());
  item.module = module_of(name);
  parameters_ += static_cast<uint64_t>(count * tensor.shape.elements());
  const Role role = role_of(tensor.name);
  const int bits = role == Role::other ? 16 : bits_of(item, role);
  if (const std::optional<QuantSpec> quant = spec_for(tensor, role, bits)) {
    plan_quantized(item, *quant);
  } else {
    item.outputs.push_back({name, tensor.dtype, tensor.shape});
    if (spec_.dtype && is_float(tensor.dtype)) item.outputs.back().dtype = *spec_.dtype;
    // The original stores the biases of its layers as fp16.
    constexpr std::string_view kBias = ".bias";
    if (spec_.linear.method == QuantSpec::Method::original && tensor.name.ends_with(kBias))
      if (const TensorInfo* weight = source_.find(tensor.name.substr(0, tensor.name.size() - kBias.size()) + ".weight");
          weight != nullptr && role_of(weight->name) == Role::linear && spec_.linear.fits(weight->shape.back()))
        item.outputs.back().dtype = DType::f16;
  }
  if (item.stacked)
    for (TensorInfo& output : item.outputs) {
      if (output.name.ends_with(".codebook")) continue;  // one for all
      std::vector<int64_t> dims(output.shape.begin(), output.shape.end());
      dims.insert(dims.begin(), count);
      output.shape = Shape(dims);
    }
  if (item.quant && role == Role::linear) {
    linear_layers_ += count;
    linear_weights_ += static_cast<uint64_t>(count * tensor.shape.elements());
    for (const TensorInfo& output : item.outputs) linear_bytes_ += output.bytes();
  }
}

int Conversion::bits_of(const Item& item, Role role) const {
  const std::string& name = item.sources.front().name;
  const int bits = precision_.bits(name, role);
  const auto fail = [&](const std::string& why) {
    throw Error(source_.path().string() + ": --bits-for gives " + std::to_string(bits) + " bits to '" + name +
                "': " + why);
  };
  if (spec_.linear.method == QuantSpec::Method::tcq16) return bits;
  if (bits != 16 && bits != spec_.linear.bits)
    fail("this format has one number of bits for the whole model, " + std::to_string(spec_.linear.bits) +
         ", or 16; use --format tcq16");
  if (std::any_of(item.sources.begin(), item.sources.end(),
                  [&](const TensorInfo& expert) { return precision_.bits(expert.name, role) != bits; }))
    fail("this format stacks the experts of a layer, and other experts get other bits; use --format tcq16");
  return bits;
}

std::optional<QuantSpec> Conversion::spec_for(const TensorInfo& tensor, Role role, int bits) {
  if (role == Role::other) return std::nullopt;
  if (tensor.shape.rank() != 2 || !is_float(tensor.dtype))
    throw Error(source_.path().string() + ": tensor '" + tensor.name + "': " + std::string(name(tensor.dtype)) + " " +
                to_string(tensor.shape) + ", expected F32, F16 or BF16 of two dimensions");
  QuantSpec quant = spec_.linear;
  // The original leaves embeddings, and so a tied head, as they are; affine is compared on the same tensors.
  if (quant.method != QuantSpec::Method::tcq16 && role == Role::embedding) return std::nullopt;
  if (bits == 16) return std::nullopt;
  quant.bits = bits;
  const int64_t cols = tensor.shape.back();
  if (quant.fits(cols)) return quant;
  const int multiple = quant.method == QuantSpec::Method::tcq16 ? kGroup : quant.group_size;
  warnings_.push_back("Skipping " + std::string(module_of(tensor.name)) + ": its width " + std::to_string(cols) +
                      " is not divisible by " + std::to_string(multiple) + "; it stays as it is");
  return std::nullopt;
}

void Conversion::plan_quantized(Item& item, const QuantSpec& quant) {
  item.quant = quant;
  const int64_t rows = item.sources.front().shape[0], cols = item.sources.front().shape[1];
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
      item.site = module;  // a rotation a layer, as there, and one for all its experts
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
  for (const auto& [module, bits] : precision_.others(source_)) quantization[module] = {{"bits", bits}};
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
  for (const Item& item : items_)
    for (const TensorInfo& source : item.sources) total += static_cast<int64_t>(source.bytes());
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
    std::map<std::string, Tensor> stacks;
    for (size_t i = 0; i < item.sources.size(); ++i) {
      check_interrupt();
      const auto rotation = rotations.find(item.site);
      for (auto& [name, tensor] :
           make(item, item.sources[i], rotation == rotations.end() ? Rotation() : rotation->second, pool)) {
        if (!item.stacked) {
          sink(name, tensor);
          continue;
        }
        Tensor& stack = stacks[name];
        const auto output = std::find_if(item.outputs.begin(), item.outputs.end(),
                                         [&, &wanted = name](const TensorInfo& info) { return info.name == wanted; });
        if (!stack) stack = Tensor::zeros(output->dtype, output->shape);
        const size_t offset = output->shape == tensor.shape() ? 0 : i * tensor.bytes();  // a codebook is all experts'
        std::copy_n(tensor.data<std::byte>(), tensor.bytes(), stack.data<std::byte>() + offset);
      }
      progress.advance(static_cast<int64_t>(item.sources[i].bytes()));
    }
    for (const auto& [name, stack] : stacks) sink(name, stack);
  }
}

// What a source becomes: outputs by name, of one expert where they are stacked.
std::vector<std::pair<std::string, Tensor>> Conversion::make(const Item& item, const TensorInfo& source,
                                                             const Rotation& rotation, ThreadPool& pool) const {
  const Tensor tensor = source_.read(source.name);
  if (!item.quant) {
    const TensorInfo& output = item.outputs.front();
    return {{output.name, output.dtype == tensor.dtype()
                              ? tensor
                              : from_float(to_float(tensor).data<float>(), tensor.shape(), output.dtype)}};
  }
  const Tensor values = to_float(tensor);
  Weight weight;
  try {
    weight = quantize(values.data<float>(), values.dim(0), values.dim(1), rotation, *item.quant, &pool);
  } catch (const Error& error) {
    throw Error(source_.path().string() + ": tensor '" + source.name + "' " + error.what());
  }
  std::vector<std::pair<std::string, Tensor>> results = {{item.module + ".weight", weight.data},
                                                         {item.module + ".scales", weight.scales}};
  if (weight.codebook) results.emplace_back(item.module + ".codebook", weight.codebook);
  if (weight.biases) results.emplace_back(item.module + ".biases", weight.biases);
  return results;
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
  return separate_experts(std::make_unique<MemoryCheckpoint>(source, conversion, pool));
}

}  // namespace turboquant
