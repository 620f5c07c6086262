#include "convert/dense_source.h"

#include <algorithm>
#include <set>
#include <vector>

#include "io/files.h"
#include "io/mlx_quantization.h"
#include "nn/linear.h"
#include "nn/roles.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

class DenseSource final : public Checkpoint {
 public:
  DenseSource(std::unique_ptr<Checkpoint> source, const MlxQuantization& quantization) : source_(std::move(source)) {
    path_ = source_->path();
    config_ = source_->config();
    note_ = source_->note();
    for (const char* key : {"quantization", "quantization_config"}) config_.erase(key);
    for (const TensorInfo& tensor : source_->tensors()) {
      const std::string module = packed_module(tensor);
      if (module.empty()) {
        if (!is_part(tensor.name)) tensors_.push_back(tensor);
        continue;
      }
      tensors_.push_back(dense(tensor, module, quantization.layout(expert_stack(module))));
      packed_.insert(tensor.name);
    }
  }

  bool decodes() const { return !packed_.empty(); }
  std::unique_ptr<Checkpoint> release() { return std::move(source_); }

  Tensor read(std::string_view name) const override {
    const TensorInfo* info = find(name);
    if (info == nullptr) throw Error(path_.string() + ": no tensor " + quote(name));
    if (packed_.find(name) == packed_.end()) return source_->read(name);
    const int64_t rows = info->shape[0], cols = info->shape[1];
    const Linear layer = Loader(*source_).linear(std::string(module_of(name)), rows, cols);
    Tensor out = Tensor::zeros(info->dtype, info->shape);
    constexpr int64_t kRows = 64;  // at a time: the floats need little memory beside the result
    std::vector<float> values(static_cast<size_t>(std::min(rows, kRows) * cols));
    for (int64_t begin = 0; begin < rows; begin += kRows) {
      const int64_t end = std::min(rows, begin + kRows);
      decode_rows(layer.weight, begin, end, values.data());
      const Tensor part = from_float(values.data(), {end - begin, cols}, info->dtype);
      std::copy_n(part.data<std::byte>(), part.bytes(), out.rows(begin, end).data<std::byte>());
    }
    return out;
  }
  std::optional<std::string> file(std::string_view name) const override { return source_->file(name); }
  uint64_t size_on_disk() const override { return source_->size_on_disk(); }
  std::vector<std::shared_ptr<const MappedFile>> mapped_files() const override { return source_->mapped_files(); }

 private:
  /// The module whose quantized weights a tensor holds; empty if it holds none.
  std::string packed_module(const TensorInfo& tensor) const {
    const std::string module(module_of(tensor.name));
    return tensor.dtype == DType::u32 && !module.empty() && source_->find(module + ".scales") != nullptr
               ? module
               : std::string();
  }

  bool is_part(const std::string& name) const {
    for (const std::string_view suffix : {".scales", ".biases"})
      if (name.ends_with(suffix)) {
        const TensorInfo* weight = source_->find(name.substr(0, name.size() - suffix.size()) + ".weight");
        return weight != nullptr && weight->dtype == DType::u32;
      }
    return false;
  }

  TensorInfo dense(const TensorInfo& weight, const std::string& module, const MlxLayout& layout) const {
    const TensorInfo& scales = *source_->find(module + ".scales");
    const auto fail = [&](const TensorInfo& tensor, const std::string& why) {
      throw Error(path_.string() + ": tensor " + describe(tensor) + ": " + why + ": config.json says " + layout.name() +
                  " in groups of " + std::to_string(layout.group_size));
    };
    if (weight.shape.rank() != 2 || scales.shape.rank() != 2 || weight.shape[0] != scales.shape[0] ||
        weight.shape.elements() < 1 || 32 * weight.shape[1] != scales.shape[1] * layout.group_size * layout.bits)
      fail(weight, "does not go with scales " + to_string(scales.shape));
    const bool mxfp4 = layout.mode == "mxfp4";
    if (mxfp4 ? scales.dtype != DType::u8 : !is_float(scales.dtype)) fail(scales, "has the wrong type");
    return {weight.name, mxfp4 ? DType::bf16 : scales.dtype, {weight.shape[0], scales.shape[1] * layout.group_size}};
  }

  std::unique_ptr<Checkpoint> source_;
  std::set<std::string, std::less<>> packed_;  // names of tensors that read() decodes
};

}  // namespace

std::unique_ptr<Checkpoint> dense_source(std::unique_ptr<Checkpoint> source) {
  const auto quantization = MlxQuantization::of(source->config(), source->path().string());
  if (!quantization) return source;
  auto dense = std::make_unique<DenseSource>(std::move(source), *quantization);
  if (!dense->decodes()) return dense->release();
  return dense;
}

}  // namespace turboquant
