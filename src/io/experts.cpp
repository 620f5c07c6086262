#include "io/experts.h"

#include <algorithm>
#include <cstring>

#include "core/mxfp4.h"
#include "io/config.h"
#include "io/files.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

constexpr int64_t kMostExperts = 1 << 16;

// A tensor of the result, and where it comes from.
struct Part {
  enum class How {
    whole,  // the source under another name
    slice,  // source[expert]
    rows,   // rows first, first + step, ... of source[expert], which may have to be transposed
    mxfp4,  // the same rows of blocks and scales
  };

  TensorInfo info;
  How how = How::whole;
  std::string source, scales;
  int64_t expert = 0, first = 0, step = 1;
  bool transposed = false;
};

// Mixtral's names of a block and of its layers, as all others name them.
std::string feed_forward_name(std::string name) {
  constexpr std::string_view kMixtral = ".block_sparse_moe.";
  const size_t at = name.find(kMixtral);
  if (at == name.npos) return name;
  name.replace(at, kMixtral.size(), ".mlp.");
  constexpr std::pair<const char*, const char*> kNames[] = {
      {".w1.", ".gate_proj."}, {".w3.", ".up_proj."}, {".w2.", ".down_proj."}};
  for (const auto& [theirs, ours] : kNames)
    if (const size_t w = name.find(theirs, at); w != name.npos) name.replace(w, 4, ours);
  return name;
}

bool ends_with_number(std::string_view path) {
  const std::string_view last = path.substr(path.rfind('.') + 1);
  return !last.empty() && last.find_first_not_of("0123456789") == last.npos;
}

class Experts final : public Checkpoint {
 public:
  explicit Experts(std::unique_ptr<Checkpoint> source) : source_(std::move(source)) {
    path_ = source_->path();
    config_ = source_->config();
    const std::string where = path_.string();
    interleaved_ = config_string_or(config_, where, "model_type", "") == "gpt_oss";
    for (const TensorInfo& tensor : source_->tensors()) add(tensor);
    std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) { return a.info.name < b.info.name; });
    for (const Part& part : parts_) {
      if (!tensors_.empty() && tensors_.back().name == part.info.name)
        throw Error(where + ": tensor " + quote(part.source) + ": " + quote(part.info.name) +
                    " is in the checkpoint twice, under two names");
      tensors_.push_back(part.info);
    }
    // What is read is not compressed any more.
    if (decodes_ &&
        config_string_or(config_object(config_, where, "quantization_config"), where, "quant_method", "") == "mxfp4")
      config_.erase("quantization_config");
  }

  bool changes() const { return changes_; }
  std::unique_ptr<Checkpoint> release() { return std::move(source_); }

  Tensor read(std::string_view name) const override {
    const TensorInfo* info = find(name);
    if (info == nullptr) throw Error(path_.string() + ": no tensor " + quote(name));
    const Part& part = parts_[static_cast<size_t>(info - tensors_.data())];
    Tensor source = source_->read(part.source);
    switch (part.how) {
      case Part::How::whole:
        return source;
      case Part::How::slice:
        return source.rows(part.expert, part.expert + 1).reshape(info->shape);
      case Part::How::rows:
        return rows_of(part, source);
      case Part::How::mxfp4:
        return decode(part, source, source_->read(part.scales));
    }
    return source;
  }
  std::optional<std::string> file(std::string_view name) const override { return source_->file(name); }
  uint64_t size_on_disk() const override { return source_->size_on_disk(); }
  std::vector<std::shared_ptr<const MappedFile>> mapped_files() const override { return source_->mapped_files(); }

 private:
  [[noreturn]] void fail(const TensorInfo& tensor, const std::string& expected) const {
    throw Error(path_.string() + ": tensor " + describe(tensor) + ": expected " + expected);
  }

  void check_stack(const TensorInfo& tensor, size_t rank, const char* expected) const {
    if (tensor.shape.rank() != rank || tensor.shape[0] > kMostExperts || tensor.shape.elements() < 1)
      fail(tensor, expected);
  }

  void add(const TensorInfo& tensor) {
    const std::string name = feed_forward_name(tensor.name);
    if (!add_stack(tensor, name)) {
      changes_ = changes_ || name != tensor.name;
      add_part(name, tensor.dtype, tensor.shape, Part::How::whole, tensor.name);
    }
  }

  Part& add_part(std::string name, DType dtype, const Shape& shape, Part::How how, const std::string& source) {
    Part& part = parts_.emplace_back();
    part.info.name = std::move(name);
    part.info.dtype = dtype;
    part.info.shape = shape;
    part.how = how;
    part.source = source;
    return part;
  }

  // True if the tensor holds all experts of a layer.
  bool add_stack(const TensorInfo& tensor, const std::string& name) {
    for (const std::string_view block : {".mlp.switch_mlp.", ".mlp.experts."}) {
      const size_t at = name.find(block);
      if (at == name.npos) continue;
      const std::string prefix = name.substr(0, at) + ".mlp.experts.";
      const std::string rest = name.substr(at + block.size());  // "gate_proj.weight", "gate_up_proj", "7.up_proj.bias"
      if (rest == "gate_up_proj" || rest == "down_proj") {
        add_float_stack(tensor, prefix, rest);
      } else if (rest == "gate_up_proj_bias" || rest == "down_proj_bias") {
        add_bias_stack(tensor, prefix, rest.substr(0, rest.size() - 5));
      } else if (rest == "gate_up_proj_blocks" || rest == "down_proj_blocks") {
        add_mxfp4_stack(tensor, prefix, rest.substr(0, rest.size() - 7));
      } else if (rest == "gate_up_proj_scales" || rest == "down_proj_scales") {
        // read with the blocks
      } else if (const size_t dot = rest.find('.');
                 dot != rest.npos && rest.find('.', dot + 1) == rest.npos && !ends_with_number(rest.substr(0, dot))) {
        add_named_stack(tensor, prefix, rest.substr(0, dot), rest.substr(dot));
      } else {
        return false;
      }
      changes_ = true;
      return true;
    }
    return false;
  }

  static std::string expert_name(const std::string& prefix, int64_t expert, const std::string& rest) {
    return prefix + std::to_string(expert) + "." + rest;
  }

  // gate_proj.weight, .scales, .bias, ...: [experts, ...]
  void add_named_stack(const TensorInfo& tensor, const std::string& prefix, const std::string& layer,
                       const std::string& part) {
    if (part == ".codebook" || part == ".signs") {
      add_part(prefix + layer + part, tensor.dtype, tensor.shape, Part::How::whole, tensor.name);
      return;
    }
    if (tensor.shape.rank() < 2) fail(tensor, "a stack of experts");
    check_stack(tensor, tensor.shape.rank(), "a stack of experts");
    const Shape shape(std::span(tensor.shape.begin() + 1, tensor.shape.rank() - 1));
    for (int64_t e = 0; e < tensor.shape[0]; ++e)
      add_part(expert_name(prefix, e, layer + part), tensor.dtype, shape, Part::How::slice, tensor.name).expert = e;
  }

  // The layers in a stack of `all` outputs: which output is the first of each, and how far apart they are.
  struct Layer {
    const char* name;
    int64_t rows, first, step;
  };
  std::vector<Layer> layers_of(const TensorInfo& tensor, const std::string& stack, int64_t all) const {
    if (stack == "down_proj") return {{"down_proj", all, 0, 1}};
    if (all % 2 != 0) fail(tensor, "an even number of outputs, of gate and up");
    if (interleaved_) return {{"gate_proj", all / 2, 0, 2}, {"up_proj", all / 2, 1, 2}};
    return {{"gate_proj", all / 2, 0, 1}, {"up_proj", all / 2, all / 2, 1}};
  }

  // One part for each layer of each expert: rows of a stack of matrices, of vectors (without `inputs`), or of MXFP4
  // blocks (with `scales`).
  void add_rows(const TensorInfo& tensor, const std::string& prefix, const std::vector<Layer>& layers,
                const std::string& suffix, std::optional<int64_t> inputs, const std::string& scales = "") {
    for (const Layer& layer : layers)
      for (int64_t e = 0; e < tensor.shape[0]; ++e) {
        Part& part = add_part(expert_name(prefix, e, layer.name + suffix), scales.empty() ? tensor.dtype : DType::bf16,
                              inputs ? Shape{layer.rows, *inputs} : Shape{layer.rows},
                              scales.empty() ? Part::How::rows : Part::How::mxfp4, tensor.name);
        part.scales = scales;
        part.expert = e;
        part.first = layer.first;
        part.step = layer.step;
        part.transposed = interleaved_ && inputs && scales.empty();
      }
  }

  void add_float_stack(const TensorInfo& tensor, const std::string& prefix, const std::string& stack) {
    check_stack(tensor, 3, "[experts, inputs, outputs] or [experts, outputs, inputs]");
    if (!is_float(tensor.dtype)) fail(tensor, "F32, F16 or BF16");
    const int64_t outputs = tensor.shape[interleaved_ ? 2 : 1], inputs = tensor.shape[interleaved_ ? 1 : 2];
    add_rows(tensor, prefix, layers_of(tensor, stack, outputs), ".weight", inputs);
  }

  void add_bias_stack(const TensorInfo& tensor, const std::string& prefix, const std::string& stack) {
    check_stack(tensor, 2, "[experts, outputs]");
    if (!is_float(tensor.dtype)) fail(tensor, "F32, F16 or BF16");
    add_rows(tensor, prefix, layers_of(tensor, stack, tensor.shape[1]), ".bias", std::nullopt);
  }

  void add_mxfp4_stack(const TensorInfo& tensor, const std::string& prefix, const std::string& stack) {
    check_stack(tensor, 4, "U8 [experts, outputs, blocks, 16]");
    const Shape& shape = tensor.shape;
    const std::string scales = tensor.name.substr(0, tensor.name.size() - std::string_view("blocks").size()) + "scales";
    const TensorInfo* found = source_->find(scales);
    if (tensor.dtype != DType::u8 || shape[3] != kMxfp4Block / 2) fail(tensor, "U8 [experts, outputs, blocks, 16]");
    if (found == nullptr) throw Error(path_.string() + ": tensor " + quote(scales) + ": missing");
    if (found->dtype != DType::u8 || found->shape != Shape{shape[0], shape[1], shape[2]})
      fail(*found, "U8 " + to_string(Shape{shape[0], shape[1], shape[2]}));
    decodes_ = true;
    add_rows(tensor, prefix, layers_of(tensor, stack, shape[1]), ".weight", shape[2] * kMxfp4Block, scales);
  }

  static Tensor rows_of(const Part& part, const Tensor& source) {
    const Shape& shape = part.info.shape;
    const int64_t rows = shape[0], cols = shape.rank() == 1 ? 1 : shape[1];
    const Tensor expert = source.rows(part.expert, part.expert + 1);
    if (!part.transposed && part.step == 1)
      return expert.reshape(Shape{expert.elements() / cols, cols}).rows(part.first, part.first + rows).reshape(shape);
    Tensor out = Tensor::zeros(part.info.dtype, shape);
    const int64_t row_stride = part.transposed ? 1 : cols;
    const int64_t col_stride = part.transposed ? expert.elements() / cols : 1;
    const size_t size = item_size(part.info.dtype);
    const auto* from = expert.data<std::byte>();
    auto* to = out.data<std::byte>();
    constexpr int64_t kColumns = 32;  // at a time: a transposed matrix is read in lines of the cache
    for (int64_t begin = 0; begin < cols; begin += kColumns)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = begin; c < std::min(cols, begin + kColumns); ++c)
          std::memcpy(to + static_cast<size_t>(r * cols + c) * size,
                      from + static_cast<size_t>((part.first + r * part.step) * row_stride + c * col_stride) * size,
                      size);
    return out;
  }

  static Tensor decode(const Part& part, const Tensor& blocks, const Tensor& scales) {
    const int64_t rows = part.info.shape[0], per_row = scales.dim(2), all = scales.dim(1);
    Tensor out = Tensor::zeros(DType::bf16, part.info.shape);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t block = (part.expert * all + part.first + r * part.step) * per_row;
      decode_mxfp4(blocks.data<uint8_t>() + block * kMxfp4Block / 2, scales.data<uint8_t>() + block, per_row,
                   out.data<uint16_t>() + r * per_row * kMxfp4Block);
    }
    return out;
  }

  std::unique_ptr<Checkpoint> source_;
  std::vector<Part> parts_;  // of tensors_[i]
  bool interleaved_ = false, changes_ = false, decodes_ = false;
};

}  // namespace

std::string shared_expert_module(std::string module) {
  std::string name = feed_forward_name(std::move(module));
  constexpr std::string_view kStack = ".mlp.switch_mlp.";
  if (const size_t at = name.find(kStack); at != name.npos) name.replace(at, kStack.size(), ".mlp.experts.");
  return name;
}

std::unique_ptr<Checkpoint> separate_experts(std::unique_ptr<Checkpoint> source) {
  auto experts = std::make_unique<Experts>(std::move(source));
  if (!experts->changes()) return experts->release();
  return experts;
}

}  // namespace turboquant
