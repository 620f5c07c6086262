#include "models/shapes.h"

#include <array>
#include <map>

#include "io/config.h"
#include "io/files.h"
#include "nn/roles.h"

namespace turboquant {
namespace {

// Far above any model, and little memory: what config.json asks for is not to be trusted.
constexpr size_t kMostTensors = size_t{1} << 18;
constexpr int64_t kLargestVector = int64_t{1} << 24;  // values that a model holds as F32, such as norms
constexpr uint64_t kMostBytes = uint64_t{1} << 50;    // of all tensors

constexpr double kMxfp4Bits = 4.25;  // a code of 4 bits a weight, and a scale of 8 for each 32

DType dtype_of(const nlohmann::json& config, const std::string& where) {
  const std::string name =
      config_string_or(config, where, "dtype", config_string_or(config, where, "torch_dtype", "bfloat16"));
  return name == "float32" ? DType::f32 : name == "float16" ? DType::f16 : DType::bf16;
}

// Takes down what a model asks for, and answers as a checkpoint that has it.
class ShapeCheckpoint final : public Checkpoint {
 public:
  ShapeCheckpoint(const std::filesystem::path& name, const nlohmann::json& config) {
    path_ = name;
    config_ = config;
    const std::string where = name.string();
    const bool mxfp4 =
        config_string_or(config_object(config, where, "quantization_config"), where, "quant_method", "") == "mxfp4";
    config_.erase("quantization");
    config_.erase("quantization_config");
    text_ = text_config(config_, where);
    type_ = config_string_or(config_, where, "model_type", "");
    dtype_ = dtype_of(text_, where);
    memory_ = load_model(*this, nullptr)->layer_memory();
    recording_ = false;
    for (auto& [tensor, info] : asked_) {
      const double bytes = mxfp4 && expert_number(tensor) >= 0 && role_of(tensor) == Role::linear
                               ? static_cast<double>(info.shape.elements()) * kMxfp4Bits / 8
                               : static_cast<double>(info.bytes());
      size_ += static_cast<uint64_t>(bytes);
      tensors_.push_back(info);
    }
  }

  const TensorInfo* find(std::string_view name) const override {
    const auto found = asked_.find(name);
    if (found != asked_.end()) return &found->second;
    constexpr std::string_view kBias = ".bias";
    if (!recording_ || !name.ends_with(kBias)) return nullptr;
    const std::string_view module = name.substr(0, name.size() - kBias.size());
    const auto weight = asked_.find(std::string(module) + ".weight");
    if (weight == asked_.end() || !has_bias(module)) return nullptr;
    return record(name, {weight->second.shape[0]});
  }
  const TensorInfo* expect(std::string_view name, const Shape& shape) const override {
    const TensorInfo* known = find(name);
    return known != nullptr || !recording_ ? known : record(name, shape);
  }

  Tensor read(std::string_view name) const override {
    const TensorInfo* info = find(name);
    if (info == nullptr) throw Error(path_.string() + ": no tensor " + quote(name));
    if (!recording_)
      throw Error(path_.string() + ": tensor " + quote(name) + ": there are no weights, only config.json");
    // Matrices stay where they are and are not looked at by loading code; all else becomes F32.
    if (info->shape.rank() == 2) return {info->dtype, info->shape, nullptr, nullptr};
    if (info->shape.elements() > kLargestVector)
      throw Error(path_.string() + ": config.json: tensor " + describe(*info) + " is larger than any model's");
    return Tensor::zeros(info->dtype, info->shape);
  }
  std::optional<std::string> file(std::string_view /*name*/) const override { return std::nullopt; }
  uint64_t size_on_disk() const override { return size_; }
  const std::vector<LayerMemory>& memory() const { return memory_; }

 private:
  const TensorInfo* record(std::string_view name, const Shape& shape) const {
    TensorInfo info{std::string(name), dtype_, shape};
    const std::optional<uint64_t> bytes = checked_bytes(dtype_, shape);
    if (!bytes || *bytes > kMostBytes - bytes_)
      throw Error(path_.string() + ": config.json: tensor " + describe(info) + " makes the model larger than any");
    if (asked_.size() == kMostTensors)
      throw Error(path_.string() + ": config.json: more than " + std::to_string(kMostTensors) +
                  " tensors; check num_hidden_layers and the number of experts");
    bytes_ += *bytes;
    return &asked_.emplace(name, std::move(info)).first->second;
  }

  // What transformers' classes give biases to.
  bool has_bias(std::string_view module) const {
    const std::string where = path_.string();
    const std::string_view layer = module.substr(module.rfind('.') + 1);
    const bool qkv = layer == "q_proj" || layer == "k_proj" || layer == "v_proj";
    if (module.find(".self_attn.") != module.npos)
      return type_.starts_with("qwen2") ? qkv : config_bool_or(text_, where, "attention_bias", type_ == "gpt_oss");
    if (module.find(".mlp.") != module.npos)
      return type_ == "gpt_oss" || config_bool_or(text_, where, "mlp_bias", false);
    return false;
  }

  nlohmann::json text_;
  std::string type_;
  DType dtype_ = DType::bf16;
  bool recording_ = true;
  std::vector<LayerMemory> memory_;
  uint64_t size_ = 0;
  mutable uint64_t bytes_ = 0;
  mutable std::map<std::string, TensorInfo, std::less<>> asked_;
};

struct Known {
  const char* name;
  const char* config;  // what its public config.json says, as far as a model reads it
};

constexpr std::array kKnown = {
    Known{"llama-3.2-1b", R"({"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
      "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
      "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
      "tie_word_embeddings": true})"},
    Known{"llama-3.1-8b", R"({"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
      "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336,
      "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
      "tie_word_embeddings": false})"},
    Known{"qwen3-30b-a3b", R"({"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48,
      "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
      "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
      "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 151936, "max_position_embeddings": 40960,
      "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": false})"},
    Known{"gpt-oss-20b", R"({"model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24,
      "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880,
      "num_local_experts": 32, "num_experts_per_tok": 4, "attention_bias": true, "sliding_window": 128,
      "swiglu_limit": 7.0, "vocab_size": 201088, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
      "rope_theta": 150000.0, "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0,
      "beta_slow": 1.0, "truncate": false, "original_max_position_embeddings": 4096}, "tie_word_embeddings": false,
      "quantization_config": {"quant_method": "mxfp4"}})"},
    Known{"gpt-oss-120b", R"({"model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 36,
      "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880,
      "num_local_experts": 128, "num_experts_per_tok": 4, "attention_bias": true, "sliding_window": 128,
      "swiglu_limit": 7.0, "vocab_size": 201088, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
      "rope_theta": 150000.0, "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0,
      "beta_slow": 1.0, "truncate": false, "original_max_position_embeddings": 4096}, "tie_word_embeddings": false,
      "quantization_config": {"quant_method": "mxfp4"}})"},
    Known{"qwen3.5-122b-a10b", R"({"model_type": "qwen3_5_moe", "hidden_size": 3072, "num_hidden_layers": 48,
      "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 256, "moe_intermediate_size": 1024,
      "shared_expert_intermediate_size": 1024, "num_experts": 256, "num_experts_per_tok": 8,
      "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
      "linear_num_key_heads": 16, "linear_num_value_heads": 64, "linear_value_head_dim": 128, "vocab_size": 248320,
      "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "partial_rotary_factor": 0.25,
      "rope_theta": 10000000.0, "tie_word_embeddings": false})"},
};

}  // namespace

ModelShapes shapes_of_config(const std::filesystem::path& name, const nlohmann::json& config) {
  if (!config.is_object()) throw Error(name.string() + ": expected a JSON object, got " + config.type_name());
  auto checkpoint = std::make_unique<ShapeCheckpoint>(name, config);
  std::vector<LayerMemory> memory = checkpoint->memory();
  return {std::move(checkpoint), std::move(memory)};
}

const nlohmann::json* known_config(std::string_view name) {
  static const auto configs = [] {
    std::map<std::string, nlohmann::json, std::less<>> parsed;
    for (const Known& known : kKnown) parsed.emplace(known.name, nlohmann::json::parse(known.config));
    return parsed;
  }();
  const auto found = configs.find(name);
  return found == configs.end() ? nullptr : &found->second;
}

std::string known_config_names() {
  std::string names;
  for (const Known& known : kKnown) names += (names.empty() ? "" : ", ") + std::string(known.name);
  return names;
}

}  // namespace turboquant
