// The one table of architectures.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/random.h"
#include "io/config.h"
#include "io/files.h"
#include "models/llama.h"
#include "models/qwen3_5.h"

namespace turboquant {
namespace {

template <typename Architecture>
std::unique_ptr<Model> make(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops, const ModelOptions& options) {
  return std::make_unique<Architecture>(checkpoint, std::move(ops), options);
}

struct Row {
  const char* model_type;
  std::unique_ptr<Model> (*make)(const Checkpoint&, std::shared_ptr<Ops>, const ModelOptions&);
};

constexpr std::array<Row, 12> kArchitectures{{
    {"llama", make<LlamaModel>},
    {"mistral", make<LlamaModel>},    // sliding window
    {"qwen2", make<LlamaModel>},      // biases of q, k and v; sliding window in some layers of some models
    {"qwen3", make<LlamaModel>},      // norms of q and k
    {"mixtral", make<LlamaModel>},    // experts
    {"qwen2_moe", make<LlamaModel>},  // experts and a shared one, dense layers between
    {"qwen3_moe", make<LlamaModel>},  // norms of q and k, experts, dense layers between
    {"gpt_oss", make<LlamaModel>},    // sinks, alternating windows, experts with biases and a clamped SwiGLU
    {"qwen3_5", make<Qwen35Model>},   // linear attention in most layers; nested under text_config
    {"qwen3_5_text", make<Qwen35Model>},
    {"qwen3_5_moe", make<Qwen35Model>},  // with experts and a shared one
    {"qwen3_5_moe_text", make<Qwen35Model>},
}};

const Row& row_of(const nlohmann::json& config, const std::string& where) {
  const std::string type = config_string_or(config, where, "model_type", "");
  if (type.empty()) throw Error(where + ": config.json has no 'model_type'");
  std::string known;
  for (const Row& row : kArchitectures) {
    if (type == row.model_type) return row;
    known += (known.empty() ? "" : ", ") + std::string(row.model_type);
  }
  throw Error(where + ": config.json: model_type " + quote(type) + " is not supported; known are: " + known);
}

}  // namespace

bool is_linear_attention(const nlohmann::json& config, const std::string& where, int64_t layer) {
  const auto types = config.find("layer_types");
  if (types != config.end() && types->is_array()) {
    const auto at = static_cast<size_t>(layer);
    if (at >= types->size() || !types->at(at).is_string())
      throw Error(where + ": config.json: 'layer_types' has no name for layer " + std::to_string(layer));
    return types->at(at) == "linear_attention";
  }
  return config.contains("linear_num_value_heads") &&
         (layer + 1) % config_integer_or(config, where, "full_attention_interval", 4) != 0;
}

ModelInfo model_info(const nlohmann::json& whole_config, const std::string& where) {
  const nlohmann::json config = text_config(whole_config, where);
  ModelInfo info;
  info.architecture = row_of(whole_config, where).model_type;
  info.n_layers = config_integer(config, where, "num_hidden_layers");
  constexpr int64_t kMostLayers = 10'000;  // far above any model; what follows counts them one by one
  if (info.n_layers > kMostLayers)
    throw Error(where + ": config.json: 'num_hidden_layers' is out of range: " + std::to_string(info.n_layers));
  info.hidden_size = config_integer(config, where, "hidden_size");
  const bool only_experts = !config.contains("intermediate_size") && config.contains("moe_intermediate_size");
  info.intermediate_size = config_integer(config, where, only_experts ? "moe_intermediate_size" : "intermediate_size");
  info.vocab_size = config_integer(config, where, "vocab_size");
  info.max_context = config_integer_or(config, where, "max_position_embeddings", 2048);
  AttentionShape& attention = info.attention;
  attention.n_heads = config_integer(config, where, "num_attention_heads");
  attention.n_kv_heads = config_integer_or(config, where, "num_key_value_heads", attention.n_heads);
  if (attention.n_heads % attention.n_kv_heads != 0)
    throw Error(where + ": config.json: 'num_attention_heads' is no multiple of 'num_key_value_heads'");
  attention.head_dim = config_integer_or(config, where, "head_dim", info.hidden_size / attention.n_heads);
  if (attention.head_dim < 16 || attention.head_dim % 16 != 0)
    throw Error(where + ": config.json: 'head_dim' is " + std::to_string(attention.head_dim) +
                "; attention needs a multiple of 16");
  constexpr int64_t kWidest = int64_t{1} << 20;  // far above any model; bytes of caches are counted in 64 bits
  if (attention.n_kv_heads > kWidest / attention.head_dim)
    throw Error(where + ": config.json: 'num_key_value_heads' times 'head_dim' is larger than any model's");
  attention.scale = 1.0F / std::sqrt(static_cast<float>(attention.head_dim));
  for (int64_t i = 0; i < info.n_layers; ++i)
    if (!is_linear_attention(config, where, i)) ++info.attention_layers;
  info.tied_head = config_bool_or(config, where, "tie_word_embeddings", false);
  if (const std::string act = config_string_or(config, where, "hidden_act", "silu"); act != "silu")
    throw Error(where + ": config.json: hidden_act " + quote(act) + " is not supported; only silu is");
  config_object(config, where, "quantization");
  return info;
}

std::unique_ptr<Model> load_model(const Checkpoint& checkpoint, std::shared_ptr<Ops> ops, const ModelOptions& options) {
  return row_of(checkpoint.config(), checkpoint.path().string()).make(checkpoint, std::move(ops), options);
}

}  // namespace turboquant
