// A GGUF file as a Hugging Face checkpoint: names, row order and config are turned back into Hugging Face's.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <span>

#include "io/checkpoint.h"
#include "io/files.h"
#include "io/gguf.h"
#include "io/gguf_tokenizer.h"

namespace turboquant {
namespace {

using nlohmann::json;

// llama.cpp stores the rows of each head of q and k so that the two halves, which Hugging Face's rope turns against
// each other, alternate. It does so for the architectures whose rope it applies to neighbours.
enum class Heads { none, query, key_value };

struct TensorRole {
  std::string_view gguf, hugging_face;  // without ".weight" and ".bias"; of a layer: without its prefix
  bool matrix;                          // rank 2, may have a bias; else a vector
  Heads interleaved = Heads::none;
};

struct Architecture {
  std::string_view name, model_type, model_class;
  std::span<const TensorRole> top, layer;
};

constexpr std::array<TensorRole, 3> kTop = {{
    {"token_embd", "model.embed_tokens", true},
    {"output_norm", "model.norm", false},
    {"output", "lm_head", true},
}};
constexpr std::array<TensorRole, 9> kLlamaLayer = {{
    {"attn_norm", "input_layernorm", false},
    {"attn_q", "self_attn.q_proj", true, Heads::query},
    {"attn_k", "self_attn.k_proj", true, Heads::key_value},
    {"attn_v", "self_attn.v_proj", true},
    {"attn_output", "self_attn.o_proj", true},
    {"ffn_norm", "post_attention_layernorm", false},
    {"ffn_gate", "mlp.gate_proj", true},
    {"ffn_up", "mlp.up_proj", true},
    {"ffn_down", "mlp.down_proj", true},
}};
constexpr std::array<Architecture, 1> kArchitectures = {{
    {"llama", "llama", "LlamaForCausalLM", kTop, kLlamaLayer},
}};

// Tables that llama.cpp once stored and everybody computes.
bool is_ignored(std::string_view name) {
  return name.ends_with(".attn_rot_embd.weight") || name.ends_with(".attention.rotary.inv_freq") ||
         name.ends_with(".attn_rot_embd");
}

// Metadata that changes what such a model computes; nothing here would honour it.
constexpr std::array<std::string_view, 9> kUnsupportedKeys = {
    "attention.scale", "attention.clamp_kqv", "attention.max_alibi_bias", "attention.logit_scale",       "logit_scale",
    "embedding_scale", "residual_scale",      "use_parallel_residual",    "attention.temperature_scale",
};

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(const std::filesystem::path& path) : file_(path) {
    path_ = path;
    check_kind();
    architecture_ = find_architecture();
    read_sizes();
    map_tensors();
    build_config();
  }

  Tensor read(std::string_view name) const override;
  std::optional<std::string> file(std::string_view name) const override {
    if (name == "tokenizer.json") return gguf_tokenizer_json(file_);
    if (name == "tokenizer_config.json") return gguf_tokenizer_config_json(file_);
    if (name == "generation_config.json") return gguf_generation_config_json(file_);
    return std::nullopt;
  }
  uint64_t size_on_disk() const override { return file_.size(); }
  std::vector<std::shared_ptr<const MappedFile>> mapped_files() const override { return {file_.mapping()}; }

 private:
  struct Source {
    const GgufTensor* tensor;
    int64_t heads;  // whose rows are interleaved; 0: none are
  };

  void check_kind() const;
  const Architecture* find_architecture() const;
  void read_sizes();
  void map_tensors();
  const TensorRole* find_role(const GgufTensor& tensor, std::string& prefix, std::string& suffix) const;
  void check_shape(const GgufTensor& tensor, const TensorRole& role, bool bias) const;
  void build_config();
  json rope_scaling() const;
  json llama3_scaling(const GgufTensor& factors) const;

  std::string key(std::string_view name) const { return std::string(architecture_->name) + "." + std::string(name); }
  int64_t size_of(std::string_view name, std::optional<int64_t> otherwise = std::nullopt) const;

  GgufFile file_;
  const Architecture* architecture_ = nullptr;
  int64_t layers_ = 0, hidden_ = 0, heads_ = 0, kv_heads_ = 0, head_dim_ = 0;
  double rope_theta_ = 10000.0;
  bool attention_bias_ = false, mlp_bias_ = false;
  std::map<std::string, Source, std::less<>> sources_;
};

void GgufCheckpoint::check_kind() const {
  if (const auto kind = file_.text("general.type"); kind && *kind != "model")
    file_.fail("holds not a model but " + quote(*kind));
  if (file_.integer("split.count").value_or(1) > 1)
    file_.fail("is one part of a split model; join the parts first (llama-gguf-split --merge)");
}

const Architecture* GgufCheckpoint::find_architecture() const {
  const auto name = file_.text("general.architecture");
  if (!name) file_.fail("does not say its architecture (metadata 'general.architecture')");
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == *name) return &architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture.name);
  }
  file_.fail("architecture " + quote(*name) + " is not supported in GGUF files (supported: " + known + ")");
}

// A positive size; without `otherwise` the key must be there.
int64_t GgufCheckpoint::size_of(std::string_view name, std::optional<int64_t> otherwise) const {
  auto value = file_.integer(key(name));
  if (!value) value = otherwise;
  if (!value) file_.fail("has no metadata " + quote(key(name)));
  if (*value < 1 || *value > std::numeric_limits<int32_t>::max())
    file_.fail("metadata " + quote(key(name)) + ": " + std::to_string(*value) + " is out of range");
  return *value;
}

void GgufCheckpoint::read_sizes() {
  if (file_.integer(key("expert_count")).value_or(0) > 0)
    file_.fail(
        "is a mixture of experts, which is not supported in GGUF files yet; use the model's Hugging Face folder");
  for (const std::string_view name : kUnsupportedKeys)
    if (file_.has(key(name))) file_.fail("metadata " + quote(key(name)) + " is not supported");
  layers_ = size_of("block_count");
  hidden_ = size_of("embedding_length");
  heads_ = size_of("attention.head_count");
  kv_heads_ = size_of("attention.head_count_kv", heads_);
  if (heads_ % kv_heads_ != 0)
    file_.fail(std::to_string(heads_) + " attention heads are not a multiple of " + std::to_string(kv_heads_) +
               " key-value heads");
  if (!file_.has(key("attention.key_length")) && hidden_ % heads_ != 0)
    file_.fail("width " + std::to_string(hidden_) + " is not a multiple of " + std::to_string(heads_) + " heads");
  head_dim_ = size_of("attention.key_length", hidden_ / heads_);
  if (size_of("attention.value_length", head_dim_) != head_dim_)
    file_.fail("keys and values of different lengths are not supported (metadata " +
               quote(key("attention.value_length")) + ")");
  if (size_of("rope.dimension_count", head_dim_) != head_dim_)
    file_.fail("rope on a part of a head is not supported (metadata " + quote(key("rope.dimension_count")) + ")");
  if (head_dim_ % 2 != 0) file_.fail("head size " + std::to_string(head_dim_) + " is odd");
  rope_theta_ = file_.number(key("rope.freq_base")).value_or(rope_theta_);
  if (rope_theta_ <= 0) file_.fail("metadata " + quote(key("rope.freq_base")) + " must be positive");
}

// "blk.7.attn_q.weight": the role of attn_q, "model.layers.7." and ".weight". Null if the name is no known one.
const TensorRole* GgufCheckpoint::find_role(const GgufTensor& tensor, std::string& prefix, std::string& suffix) const {
  std::string_view stem = tensor.name;
  const size_t dot = stem.rfind('.');
  if (dot == std::string_view::npos) return nullptr;
  suffix = stem.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return nullptr;
  stem = stem.substr(0, dot);
  std::span<const TensorRole> roles = architecture_->top;
  constexpr std::string_view kBlock = "blk.";
  if (stem.starts_with(kBlock)) {
    stem.remove_prefix(kBlock.size());
    const std::string_view digits = stem.substr(0, stem.find('.'));
    int64_t layer = -1;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
    // Written in one way only, so that no two names mean one tensor.
    if (status != std::errc() || layer < 0 || std::to_string(layer) != digits || digits.size() == stem.size())
      return nullptr;
    if (layer >= layers_)
      file_.fail("tensor " + quote(tensor.name) + ": the model has " + std::to_string(layers_) + " layers");
    prefix = "model.layers." + std::string(digits) + ".";
    stem.remove_prefix(digits.size() + 1);
    roles = architecture_->layer;
  }
  const auto found = std::find_if(roles.begin(), roles.end(), [stem](const TensorRole& r) { return r.gguf == stem; });
  if (found == roles.end() || (suffix == ".bias" && (!found->matrix || prefix.empty()))) return nullptr;
  return &*found;
}

void GgufCheckpoint::check_shape(const GgufTensor& tensor, const TensorRole& role, bool bias) const {
  const size_t rank = role.matrix && !bias ? 2 : 1;
  if (tensor.shape.rank() != rank)
    file_.fail("tensor " + quote(tensor.name) + ": shape " + to_string(tensor.shape) + ", expected rank " +
               std::to_string(rank));
  if (role.interleaved == Heads::none) return;
  const int64_t rows = (role.interleaved == Heads::query ? heads_ : kv_heads_) * head_dim_;
  if (tensor.shape[0] != rows)
    file_.fail("tensor " + quote(tensor.name) + ": shape " + to_string(tensor.shape) + ", expected " +
               std::to_string(rows) + " rows");
}

void GgufCheckpoint::map_tensors() {
  for (const GgufTensor& tensor : file_.tensors()) {
    if (tensor.name == "rope_freqs.weight" || is_ignored(tensor.name)) continue;
    std::string prefix, suffix;
    const TensorRole* role = find_role(tensor, prefix, suffix);
    if (role == nullptr)
      file_.fail("tensor " + quote(tensor.name) + " is not one of architecture " + std::string(architecture_->name));
    const bool bias = suffix == ".bias";
    check_shape(tensor, *role, bias);
    if (bias) (role->hugging_face.starts_with("mlp.") ? mlp_bias_ : attention_bias_) = true;
    const int64_t heads = role->interleaved == Heads::none ? 0 : role->interleaved == Heads::query ? heads_ : kv_heads_;
    const std::string name = prefix + std::string(role->hugging_face) + suffix;
    sources_.emplace(name, Source{&tensor, heads});
    tensors_.push_back({name, dtype_of(tensor.type), tensor.shape});
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
}

void GgufCheckpoint::build_config() {
  const GgufTensor* embedding = file_.find("token_embd.weight");
  if (embedding == nullptr) file_.fail("has no tensor 'token_embd.weight'");
  if (embedding->shape[1] != hidden_)
    file_.fail("tensor 'token_embd.weight': shape " + to_string(embedding->shape) + ", expected rows of " +
               std::to_string(hidden_));
  const int64_t vocabulary = embedding->shape[0];
  if (const auto tokens = file_.texts("tokenizer.ggml.tokens"); tokens && std::ssize(*tokens) > vocabulary)
    file_.fail("has " + std::to_string(tokens->size()) + " tokens, but tensor 'token_embd.weight' has " +
               std::to_string(vocabulary) + " rows");
  const auto epsilon = file_.number(key("attention.layer_norm_rms_epsilon"));
  if (!epsilon || *epsilon <= 0) file_.fail("has no metadata " + quote(key("attention.layer_norm_rms_epsilon")));
  const GgufSpecialTokens special = gguf_special_tokens(file_);
  const auto id = [](std::optional<int64_t> token) { return token ? json(*token) : json(nullptr); };
  config_ = {{"architectures", {architecture_->model_class}},
             {"model_type", architecture_->model_type},
             {"hidden_size", hidden_},
             {"num_hidden_layers", layers_},
             {"num_attention_heads", heads_},
             {"num_key_value_heads", kv_heads_},
             {"head_dim", head_dim_},
             {"hidden_act", "silu"},
             {"intermediate_size", size_of("feed_forward_length")},
             {"vocab_size", vocabulary},
             {"attention_bias", attention_bias_},
             {"mlp_bias", mlp_bias_},
             {"max_position_embeddings", size_of("context_length")},
             {"rope_scaling", rope_scaling()},
             {"rope_theta", rope_theta_},
             {"rms_norm_eps", *epsilon},
             {"tie_word_embeddings", file_.find("output.weight") == nullptr},
             {"bos_token_id", id(special.begin)},
             {"eos_token_id", id(special.end)},
             {"pad_token_id", id(special.padding ? special.padding : special.end)},
             {"torch_dtype", "float16"}};
}

// In Hugging Face's form; null if positions are not scaled.
json GgufCheckpoint::rope_scaling() const {
  const std::string_view type = file_.text(key("rope.scaling.type")).value_or("none");
  const GgufTensor* factors = file_.find("rope_freqs.weight");
  if (factors != nullptr) {
    if (type != "none") file_.fail("scales rope twice: tensor 'rope_freqs.weight' and " + quote(type));
    return llama3_scaling(*factors);
  }
  // Older files have the linear factor alone.
  const auto linear = file_.number(key("rope.scale_linear"));
  if (type == "none" && (!linear || *linear == 1.0)) return nullptr;
  const auto factor = type == "none" ? linear : file_.number(key("rope.scaling.factor"));
  if (!factor || *factor <= 0)
    file_.fail("metadata " + quote(key("rope.scaling.factor")) + " is missing or not positive");
  if (type == "none" || type == "linear") return {{"rope_type", "linear"}, {"factor", *factor}};
  if (type != "yarn") file_.fail("rope scaling " + quote(type) + " is not supported");
  if (file_.has(key("rope.scaling.yarn_log_multiplier")))
    file_.fail("metadata " + quote(key("rope.scaling.yarn_log_multiplier")) + " is not supported");
  json result = {{"rope_type", "yarn"}, {"factor", *factor}};
  if (file_.has(key("rope.scaling.original_context_length")))
    result["original_max_position_embeddings"] = size_of("rope.scaling.original_context_length");
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kNumbers = {{
      {"rope.scaling.attn_factor", "attention_factor"},
      {"rope.scaling.yarn_beta_fast", "beta_fast"},
      {"rope.scaling.yarn_beta_slow", "beta_slow"},
  }};
  for (const auto& [gguf, hugging_face] : kNumbers)
    if (const auto value = file_.number(key(gguf))) result[std::string(hugging_face)] = *value;
  return result;
}

// Llama 3.1 and later store what every frequency is divided by. The parameters cannot be read off it, but those of all
// published models differ in the factor only, which is the divisor of the lowest frequency.
json GgufCheckpoint::llama3_scaling(const GgufTensor& factors) const {
  constexpr double kLow = 1.0, kHigh = 4.0, kOriginal = 8192.0;
  const int64_t n = head_dim_ / 2;
  if (factors.shape != Shape{n} || factors.type != GgufType::f32)
    file_.fail("tensor 'rope_freqs.weight': " + std::string(name(factors.type)) + " " + to_string(factors.shape) +
               ", expected F32 [" + std::to_string(n) + "]");
  std::vector<float> stored(static_cast<size_t>(n));
  std::memcpy(stored.data(), file_.data(factors), factors.bytes);
  const double factor = std::round(static_cast<double>(stored.back()));
  bool all_one = true, same = factor >= 1 && factor <= 1024;
  for (int64_t i = 0; i < n; ++i) {
    const double turns = kOriginal *
                         std::pow(rope_theta_, -static_cast<double>(2 * i) / static_cast<double>(head_dim_)) /
                         (2 * std::numbers::pi);  // of the frequency in the original context
    const double smooth = std::clamp((turns - kLow) / (kHigh - kLow), 0.0, 1.0);
    const double expected = 1 / ((1 - smooth) / factor + smooth);
    const double given = stored[static_cast<size_t>(i)];
    all_one = all_one && given == 1.0;
    same = same && std::abs(given - expected) <= 1e-3 * expected;
  }
  if (all_one) return nullptr;
  if (!same)
    file_.fail(
        "tensor 'rope_freqs.weight' is not the rope scaling of Llama 3 (factors 1 and 4, context 8192), the only "
        "one that is supported; use the model's Hugging Face folder");
  return {{"rope_type", "llama3"},
          {"factor", factor},
          {"low_freq_factor", kLow},
          {"high_freq_factor", kHigh},
          {"original_max_position_embeddings", static_cast<int64_t>(kOriginal)}};
}

Tensor GgufCheckpoint::read(std::string_view name) const {
  const auto found = sources_.find(name);
  if (found == sources_.end()) file_.fail("has no tensor for " + quote(name));
  const auto [source, heads] = found->second;
  const DType dtype = dtype_of(source->type);
  Tensor stored;
  if (block_of(source->type).elements == 1) {
    stored = tensor_in_file(file_.mapping(), source->offset, dtype, source->shape);
  } else {
    stored = Tensor::zeros(dtype, source->shape);
    dequantize_to_half(source->type, file_.data(*source), source->shape.elements(), stored.data<uint16_t>());
  }
  if (heads == 0) return stored;
  // Row (head, i, half) of the file is row (head, half, i) of Hugging Face.
  Tensor result = Tensor::zeros(dtype, source->shape);
  const size_t row_bytes = result.bytes() / static_cast<size_t>(result.dim(0));
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t half = 0; half < 2; ++half)
      for (int64_t i = 0; i < head_dim_ / 2; ++i) {
        const auto to = static_cast<size_t>(head * head_dim_ + half * (head_dim_ / 2) + i);
        const auto from = static_cast<size_t>(head * head_dim_ + i * 2 + half);
        std::memcpy(result.data<std::byte>() + to * row_bytes, stored.data<std::byte>() + from * row_bytes, row_bytes);
      }
  return result;
}

}  // namespace

std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file) {
  return std::make_unique<GgufCheckpoint>(file);
}

}  // namespace turboquant
