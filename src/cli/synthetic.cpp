#include "cli/synthetic.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "convert/conversion.h"
#include "core/random.h"
#include "models/shapes.h"
#include "quant/rotation.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

// All tensors of a converted model, filled with random codes.
class SyntheticCheckpoint final : public Checkpoint {
 public:
  SyntheticCheckpoint(const std::string& name, const nlohmann::json& config, const ConversionSpec& spec,
                      ThreadPool& pool)
      : pool_(pool) {
    const ModelShapes shapes = shapes_of_config(name, config);
    const Conversion conversion(*shapes.checkpoint, spec);
    path_ = name;
    config_ = conversion.config();
    tensors_ = conversion.outputs();
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    for (const TensorInfo& info : tensors_) values_[info.name] = make(info);
  }

  Tensor read(std::string_view name) const override { return values_.find(name)->second; }
  std::optional<std::string> file(std::string_view) const override { return std::nullopt; }
  uint64_t size_on_disk() const override { return 0; }

 private:
  Tensor make(const TensorInfo& info) const {
    if (info.dtype == DType::u8) return random_words(info, ~uint64_t{0}, 0);  // any bytes are valid codes
    // Values of matrices that stay as they are: either sign, and exponents of 2^-5.
    if (info.shape.rank() == 2 && info.dtype == DType::f16)
      return random_words(info, 0x83ff83ff83ff83ff, 0x2800280028002800);
    if (info.shape.rank() == 2) return random_words(info, 0x807f807f807f807f, 0x3d003d003d003d00);
    if (info.dtype == DType::i8) {
      const Tensor signs = make_signs(info.shape[0], path_hash(info.name));
      Tensor stored = Tensor::zeros(DType::i8, info.shape);
      std::transform(signs.data<float>(), signs.data<float>() + signs.elements(), stored.data<int8_t>(),
                     [](float s) { return static_cast<int8_t>(s); });
      return stored;
    }
    float value = info.name.ends_with(".bias") ? 0.0F : 1.0F;  // a norm
    constexpr std::string_view kScales = ".scales";
    if (info.name.ends_with(kScales)) {
      // Rows of about unit gain: the tables' values have a root mean square near 40.
      const TensorInfo* weight = find(info.name.substr(0, info.name.size() - kScales.size()) + ".weight");
      value = 1.0F / (40.0F * std::sqrt(static_cast<float>(weight->shape[1] * kGroup)));
    }
    const std::vector<float> values(static_cast<size_t>(info.shape.elements()), value);
    return from_float(values.data(), info.shape, info.dtype);
  }

  Tensor random_words(const TensorInfo& info, uint64_t mask, uint64_t set) const {
    Tensor tensor = Tensor::zeros(info.dtype, info.shape);
    auto* words = tensor.data<uint64_t>();
    const uint64_t seed = path_hash(info.name);
    pool_.parallel_for(static_cast<int64_t>(tensor.bytes() / 8), 1 << 16, [&](int64_t begin, int64_t end) {
      uint64_t state = seed * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(begin) + 1;
      for (int64_t i = begin; i < end; ++i) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = (state & mask) | set;
      }
    });
    return tensor;
  }

  ThreadPool& pool_;
  std::map<std::string, Tensor, std::less<>> values_;
};

}  // namespace

std::unique_ptr<Checkpoint> make_synthetic(const std::string& shape, int bits, int head_bits, ThreadPool& pool) {
  if (bits < 2 || bits > 4) throw UsageError("--bits " + std::to_string(bits) + ": use 2, 3 or 4");
  if (head_bits != 16 && block_bytes(head_bits) == 0)
    throw UsageError("--head-bits " + std::to_string(head_bits) + ": use 2, 3, 4, 8 or 16");
  const nlohmann::json* config = known_config(shape);
  if (config == nullptr) throw UsageError("--synthetic " + shape + ": unknown; known are: " + known_config_names());
  ConversionSpec spec;
  spec.linear.bits = bits;
  spec.head_bits = head_bits;
  return std::make_unique<SyntheticCheckpoint>(shape, *config, spec, pool);
}

}  // namespace turboquant
