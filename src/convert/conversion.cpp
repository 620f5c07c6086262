#include "convert/conversion.h"

#include <algorithm>

#include "core/interrupt.h"
#include "core/progress.h"
#include "core/random.h"
#include "io/experts.h"
#include "quant/affine.h"
#include "quant/original.h"
#include "quant/qjl.h"
#include "quant/rotation.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

// Weights of a matrix from which on all threads share it, so that each does not hold one such.
constexpr int64_t kLargeMatrix = int64_t{1} << 25;
// Bytes of the source after which what was read of it leaves the memory.
constexpr int64_t kReleaseBytes = int64_t{1} << 28;

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

std::map<std::string, std::string> file_metadata(QuantSpec::Method method) {
  return {{"format", method == QuantSpec::Method::tcq16 ? "turboquant" : "mlx"}};
}

Conversion::Conversion(const Checkpoint& source, const ConversionSpec& spec)
    : source_(not_compressed(source)),
      spec_(spec.budget && !spec.allocation ? spend(source, spec) : spec),
      precision_(source, spec_.linear.method, spec_.linear.bits,
                 spec_.linear.method == QuantSpec::Method::tcq16 ? spec_.head_bits : spec_.linear.bits, spec_.bits_for,
                 spec_.allocation) {
  if (spec_.linear.method != QuantSpec::Method::tcq16) layout_.emplace(source);
  if (spec_.linear.method == QuantSpec::Method::original && !layout_->note().empty())
    warnings_.push_back(layout_->note());
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
    if (layout_ && layout_->leaves_out(tensor.name)) continue;
    if (layout_ && stack != tensor.name) {
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

void Conversion::plan(Item& item) {
  const TensorInfo& tensor = item.sources.front();
  const std::string name = layout_ ? layout_->name(tensor.name) : tensor.name;
  const auto count = static_cast<int64_t>(item.sources.size());
  item.module = module_of(name);
  parameters_ += static_cast<uint64_t>(count * tensor.shape.elements());
  const Role role = role_of(tensor.name);
  const int bits = role == Role::other ? 16 : bits_of(item, role);
  if (const std::optional<QuantSpec> quant = spec_for(tensor, role, bits)) {
    plan_quantized(item, *quant);
  } else {
    item.outputs.push_back(layout_ ? layout_->stored(tensor) : tensor);
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
  if (role == Role::linear)
    weights_by_bits_[item.quant ? item.quant->bits : 16] += static_cast<uint64_t>(count * tensor.shape.elements());
  if (item.quant && role == Role::linear) {
    linear_layers_ += count;
    linear_weights_ += static_cast<uint64_t>(count * tensor.shape.elements());
    for (const TensorInfo& output : item.outputs)
      if (!output.name.ends_with(".qjl_signs")) linear_bytes_ += output.bytes();
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
  quant.qjl = quant.qjl && expert_number(tensor.name) < 0;  // as there: not for experts
  if (bits == 16) return std::nullopt;
  quant.bits = bits;
  const int64_t cols = tensor.shape.back();
  if (quant.fits(cols)) return quant;
  const int multiple = quant.method == QuantSpec::Method::tcq16 ? kGroup : quant.group_size;
  warnings_.push_back("Skipping " + std::string(module_of(tensor.name)) + ": its width " + std::to_string(cols) +
                      " is not divisible by " + std::to_string(multiple) + "; it stays as it is");
  return std::nullopt;
}

std::vector<TensorInfo> Conversion::tiled_outputs(const std::string& module, int64_t rows, int64_t cols, int bits) {
  return {{module + ".weight", DType::u8, {tile_count(rows), cols / kGroup, block_bytes(bits)}},
          {module + ".scales", DType::f16, {rows}}};
}

void Conversion::plan_quantized(Item& item, const QuantSpec& quant) {
  item.quant = quant;
  const int64_t rows = item.sources.front().shape[0], cols = item.sources.front().shape[1];
  const std::string& module = item.module;
  const int64_t scales = cols / quant.group_size;
  switch (quant.method) {
    case QuantSpec::Method::tcq16:
      item.outputs = tiled_outputs(module, rows, cols, quant.bits);
      item.site = input_site(module);
      break;
    case QuantSpec::Method::original:
      item.outputs = {{module + ".weight", DType::u32, {rows, original_words(quant.bits, cols)}},
                      {module + ".scales", DType::f16, {rows, scales}},
                      {module + ".codebook", DType::f16, {int64_t{1} << quant.bits}}};
      if (quant.qjl)
        item.outputs.insert(item.outputs.end(), {{module + ".qjl_packed", DType::u32, {rows, qjl_words(cols)}},
                                                 {module + ".qjl_norms", DType::f16, {rows}},
                                                 {module + ".qjl_signs", DType::f16, {cols}}});
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
  nlohmann::json config = layout_ ? layout_->config(source_.config()) : source_.config();
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
    quantization["use_qjl"] = linear.qjl;
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

std::vector<Conversion::Matrix> Conversion::matrices() const {
  std::vector<Matrix> matrices;
  for (const Item& item : items_) {
    const std::string& tensor = item.sources.front().name;
    if (item.quant && item.quant->method == QuantSpec::Method::tcq16)
      matrices.push_back({tensor, item.module, item.site, role_of(tensor), item.quant->bits});
  }
  return matrices;
}

Rotation Conversion::rotation(const std::string& site) const {
  const auto found = sites_.find(site);
  if (found == sites_.end()) return {};
  return make_rotation(found->second, spec_.rotation_seed + path_hash(site, spec_.python_hash_seed));
}

// What a run works with.
struct Conversion::Work {
  ThreadPool& pool;
  const Sink& sink;
  const std::map<std::string, Rotation>& rotations;
  const std::function<void(const TensorInfo&)>& done;  // a source was read
};

void Conversion::run(ThreadPool& pool, const Sink& take, const std::set<std::string>& written) const {
  const Sink sink = [&](const std::string& name, const Tensor& tensor) {
    if (!written.contains(name)) take(name, tensor);
  };
  const auto is_written = [&](const TensorInfo& output) { return written.contains(output.name); };
  std::vector<const Item*> alone, together;
  int64_t total = 0;
  for (const Item& item : items_) {
    if (std::all_of(item.outputs.begin(), item.outputs.end(), is_written)) continue;
    for (const TensorInfo& source : item.sources) total += static_cast<int64_t>(source.bytes());
    (item.stacked || item.sources.front().shape.elements() > kLargeMatrix ? alone : together).push_back(&item);
  }

  std::map<std::string, Rotation> rotations;
  for (const auto& [site, width] : sites_) {
    const Rotation rotation = rotations[site] = this->rotation(site);
    const auto* signs = rotation.signs.data<float>();
    if (spec_.linear.method == QuantSpec::Method::tcq16) {
      Tensor stored = Tensor::zeros(DType::i8, {width});
      std::transform(signs, signs + width, stored.data<int8_t>(), [](float s) { return static_cast<int8_t>(s); });
      sink(site + ".signs", stored);
    } else {
      sink(site + ".signs", from_float(signs, {width}, DType::f16));
    }
  }

  Progress progress("Quantizing", total, Progress::Unit::bytes);
  std::mutex mutex;
  int64_t since_release = 0;
  const std::function<void(const TensorInfo&)> done = [&](const TensorInfo& source) {
    check_interrupt();
    const std::lock_guard lock(mutex);
    progress.advance(static_cast<int64_t>(source.bytes()));
    since_release += static_cast<int64_t>(source.bytes());
    if (since_release < kReleaseBytes) return;
    since_release = 0;
    for (const auto& file : source_.mapped_files()) file->release_pages();
  };
  const Work work{pool, sink, rotations, done};
  for (const Item* item : alone) make_item(*item, work);
  pool.parallel_for(static_cast<int64_t>(together.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) make_item(*together[static_cast<size_t>(i)], work);
  });
}

void Conversion::make_item(const Item& item, const Work& work) const {
  const auto found = work.rotations.find(item.site);
  const Rotation rotation = found == work.rotations.end() ? Rotation() : found->second;
  if (!item.stacked) {
    for (const auto& [name, tensor] : make(item, item.sources.front(), rotation, work.pool)) work.sink(name, tensor);
    work.done(item.sources.front());
    return;
  }
  std::map<std::string, Tensor> stacks;
  for (const TensorInfo& output : item.outputs) stacks[output.name] = Tensor::zeros(output.dtype, output.shape);
  const auto count = static_cast<int64_t>(item.sources.size());
  work.pool.parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const TensorInfo& source = item.sources[static_cast<size_t>(i)];
      for (const auto& [name, tensor] : make(item, source, rotation, work.pool)) {
        Tensor& stack = stacks.at(name);
        // A codebook is all experts': the first one's is taken.
        const bool shared = stack.bytes() == tensor.bytes() && count > 1;
        if (shared && i > 0) continue;
        std::copy_n(tensor.data<std::byte>(), tensor.bytes(),
                    stack.data<std::byte>() + static_cast<size_t>(i) * tensor.bytes());
      }
      work.done(source);
    }
  });
  for (const auto& [name, stack] : stacks) work.sink(name, stack);
}

// What a source becomes: outputs by name, of one expert where they are stacked.
std::vector<std::pair<std::string, Tensor>> Conversion::make(const Item& item, const TensorInfo& source,
                                                             const Rotation& rotation, ThreadPool& pool) const {
  Tensor tensor = source_.read(source.name);
  if (!item.quant) {
    if (layout_) tensor = layout_->store(source.name, tensor);
    const TensorInfo& output = item.outputs.front();
    return {{output.name, output.dtype == tensor.dtype()
                              ? tensor
                              : from_float(to_float(tensor).data<float>(), tensor.shape(), output.dtype)}};
  }
  Weight weight;
  try {
    weight = quantize(tensor, rotation, *item.quant, &pool);
  } catch (const Error& error) {
    throw Error(source_.path().string() + ": tensor '" + source.name + "' " + error.what());
  }
  std::vector<std::pair<std::string, Tensor>> results = {{item.module + ".weight", weight.data},
                                                         {item.module + ".scales", weight.scales}};
  if (weight.codebook) results.emplace_back(item.module + ".codebook", weight.codebook);
  if (weight.qjl) {
    const Tensor& signs = weight.qjl.rotation.signs;
    results.emplace_back(item.module + ".qjl_packed", weight.qjl.bits);
    results.emplace_back(item.module + ".qjl_norms", weight.qjl.norms);
    results.emplace_back(item.module + ".qjl_signs", from_float(signs.data<float>(), signs.shape(), DType::f16));
  }
  if (weight.biases) results.emplace_back(item.module + ".biases", weight.biases);
  return results;
}

namespace {

class MemoryCheckpoint final : public Checkpoint {
 public:
  MemoryCheckpoint(const Checkpoint& source, const Conversion& conversion, ThreadPool& pool,
                   const std::function<std::set<std::string>(const Conversion::Sink&)>& first)
      : source_(source) {
    path_ = source.path();
    config_ = conversion.config();
    tensors_ = conversion.outputs();
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    std::mutex mutex;
    const Conversion::Sink take = [&](const std::string& name, const Tensor& tensor) {
      const std::lock_guard lock(mutex);
      size_ += tensor.bytes();
      values_[name] = tensor;
    };
    conversion.run(pool, take, first ? first(take) : std::set<std::string>());
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

std::unique_ptr<Checkpoint> convert_in_memory(
    const Checkpoint& source, const Conversion& conversion, ThreadPool& pool,
    const std::function<std::set<std::string>(const Conversion::Sink&)>& first) {
  return language_model_of(separate_experts(std::make_unique<MemoryCheckpoint>(source, conversion, pool, first)));
}

}  // namespace turboquant
