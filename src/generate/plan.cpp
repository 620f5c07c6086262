#include "generate/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "convert/conversion.h"
#include "convert/options.h"
#include "core/memory.h"
#include "generate/state.h"
#include "io/config.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "models/shapes.h"
#include "models/summary.h"

namespace turboquant {
namespace {

constexpr std::array kKvChoices = {KvBits{16, 16}, KvBits{8, 8}, KvBits{8, 4}, KvBits{4, 4},
                                   KvBits{4, 3},   KvBits{3, 3}, KvBits{2, 2}};
constexpr std::array kWeightBits = {4, 3, 2};

// Sizes of a config.json may be absurd. Sums of a few of these do not overflow, and below 2^53 all is exact.
uint64_t to_bytes(double bytes) { return static_cast<uint64_t>(std::min(bytes, 0x1p58)); }

bool is_compressed(const nlohmann::json& config) {
  for (const char* key : {"quantization", "quantization_config"})
    if (config.contains(key) && !config.at(key).is_null()) return true;
  return false;
}

WeightPlan weights_as_they_are(const Summary& summary) {
  return {16, summary.all.bytes, summary.all.bits_per_weight(), ""};
}

// `bits` of 0: the size that was asked for.
WeightPlan converted_weights(const Checkpoint& source, double bits, const PlanOptions& options,
                             const std::string& rule = "") {
  ConversionSpec spec;
  if (bits > 0) spec.linear = quant_spec("tcq16", bits, QuantSpec().group_size);
  spec.head_bits = options.head_bits;
  std::vector<std::string> rules = options.bits_for;
  if (!rule.empty()) rules.push_back(rule);
  set_precision(spec, bits > 0 ? average_budget(bits) : size_budget(options.target_bytes), options.preset, rules);
  const Conversion conversion(source, spec);
  WeightPlan plan{bits, 0, 0, rule};
  for (const TensorInfo& tensor : conversion.outputs()) plan.bytes += tensor.bytes();
  plan.bits_per_weight = 8.0 * static_cast<double>(plan.bytes) / static_cast<double>(conversion.parameters());
  return plan;
}

// Widths of what a token's activations pass through.
struct Widths {
  int64_t in = 0, out = 0;  // summed over the matrices of the widest layer that a token meets
};

// Of shapes of the plain model: of routed experts only those that a token is sent to count, each as wide as the first.
Widths widest_layer(const Checkpoint& shapes, int64_t experts_per_token) {
  constexpr std::string_view kLayers = "model.layers.";
  std::map<std::string, Widths> layers;
  Widths widest;
  for (const TensorInfo& tensor : shapes.tensors()) {
    if (!tensor.name.starts_with(kLayers) || tensor.shape.rank() != 2) continue;
    const int64_t expert = expert_number(tensor.name);
    if (expert > 0) continue;
    const int64_t times = expert == 0 ? experts_per_token : 1;
    Widths& layer = layers[tensor.name.substr(0, tensor.name.find('.', kLayers.size()))];
    layer.out += times * tensor.shape[0];
    layer.in += times * tensor.shape[1];
    if (layer.in + layer.out > widest.in + widest.out) widest = layer;
  }
  return widest;
}

// Everything that is neither weights nor cache: the arena, whose two halves hold a layer's activations each, logits,
// tables of rotary positions, tokenizer and program.
uint64_t workspace_bytes(const Checkpoint& shapes, const ModelInfo& info, int64_t experts_per_token,
                         const PlanOptions& options) {
  constexpr uint64_t kProgram = uint64_t{48} << 20;
  constexpr uint64_t kTokenizer = 400;  // bytes a token of the vocabulary
  const Widths widths = widest_layer(shapes, experts_per_token);
  const auto step = static_cast<double>(std::max(std::min(options.context, kPrefillTokens), options.parallel));
  // Outputs are F32; inputs rotated F32 and int8; the residual stream and its norms beside them.
  const double floats = static_cast<double>(widths.out) + 1.25 * static_cast<double>(widths.in) +
                        6 * static_cast<double>(info.hidden_size);
  const double rope = static_cast<double>(options.context) * static_cast<double>(info.attention.head_dim);
  const double logits = static_cast<double>(options.parallel) * static_cast<double>(info.vocab_size);
  return kProgram + kTokenizer * static_cast<uint64_t>(info.vocab_size) +
         to_bytes(sizeof(float) * (2 * step * floats + logits + rope));
}

class Planner {
 public:
  Planner(Plan& plan, std::vector<LayerMemory> layers)
      : plan_(plan), layers_(std::move(layers)), ops_(make_cpu_ops(std::make_shared<ThreadPool>(1))) {
    for (const KvBits& kv : kKvChoices)
      if (!kv.compressed() || std::all_of(layers_.begin(), layers_.end(), can_be_compressed)) choices_.push_back(kv);
  }

  // Of all sequences.
  CacheBytes cache(int64_t context, KvBits kv) const {
    CacheOptions options = plan_.options.kv;
    options.kv_bits = kv;
    const CacheBytes one = cache_bytes(*ops_, layers_, options, context);
    const auto all = [&](uint64_t bytes) {
      return to_bytes(static_cast<double>(plan_.options.parallel) * static_cast<double>(bytes));
    };
    return {all(one.kv), all(one.state)};
  }
  const std::vector<KvBits>& choices() const { return choices_; }
  bool fits(const WeightPlan& weights, int64_t context, KvBits kv) const {
    const CacheBytes bytes = cache(context, kv);
    return weights.bytes + plan_.workspace + bytes.kv + bytes.state <= plan_.options.ram;
  }

  // The flags that make it fit: weights alone, cache alone, both, a shorter context.
  std::vector<std::string> flags() const {
    const PlanOptions& now = plan_.options;
    std::vector<WeightPlan> lighter{plan_.chosen};
    lighter.insert(lighter.end(), plan_.lighter.begin(), plan_.lighter.end());
    std::vector<KvBits> shorter{now.kv.kv_bits};
    for (const KvBits& kv : choices_)
      if (cache(now.context, kv).kv < cache(now.context, now.kv.kv_bits).kv) shorter.push_back(kv);
    const auto text = [&](const WeightPlan& weights, KvBits kv) {
      std::string flags;
      if (weights.bits != plan_.chosen.bits) flags = fmt::format("--bits {}", weights.bits);
      if (!weights.bits_for.empty()) flags = "--bits-for '" + weights.bits_for + "'";
      if (kv != now.kv.kv_bits) flags += fmt::format("{}--kv-bits {}", flags.empty() ? "" : " ", to_string(kv));
      return flags;
    };
    std::vector<std::string> found;
    const auto find = [&](const std::vector<WeightPlan>& all_weights, const std::vector<KvBits>& all_kv) {
      for (const WeightPlan& weights : all_weights)
        for (const KvBits& kv : all_kv)
          if (fits(weights, now.context, kv)) {
            found.push_back(text(weights, kv));
            return true;
          }
      return false;
    };
    const bool weights_help = find(lighter, {now.kv.kv_bits}), cache_helps = find({plan_.chosen}, shorter);
    if (!weights_help && !cache_helps) find(lighter, shorter);
    if (const int64_t context = longest(plan_.chosen, now.kv.kv_bits); context > 0)
      found.push_back("--context " + std::to_string(context));
    else if (found.empty())
      if (const int64_t shortest = longest(lighter.back(), shorter.back()); shortest > 0)
        found.push_back(text(lighter.back(), shorter.back()) + " --context " + std::to_string(shortest));
    return found;
  }

 private:
  // The longest context that fits, a multiple of 256, if it is of any use; else 0.
  int64_t longest(const WeightPlan& weights, KvBits kv) const {
    constexpr int64_t kStep = 256, kUseful = 1024;
    int64_t low = 0, high = plan_.options.context / kStep;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (fits(weights, middle * kStep, kv))
        low = middle;
      else
        high = middle - 1;
    }
    return low * kStep >= std::min(kUseful, plan_.options.context) ? low * kStep : 0;
  }

  static bool can_be_compressed(const LayerMemory& layer) {
    return layer.n_kv_heads == 0 || layer.window > 0 || kv_compressible(layer.head_dim);
  }

  Plan& plan_;
  std::vector<LayerMemory> layers_;
  std::shared_ptr<Ops> ops_;
  std::vector<KvBits> choices_;
};

}  // namespace

Plan make_plan(const Checkpoint& checkpoint, const PlanOptions& options) {
  if (options.bits != 0 && options.bits != 16) quant_spec("tcq16", options.bits, QuantSpec().group_size);
  check_head_bits(options.head_bits);
  Plan plan;
  const std::string where = checkpoint.path().string();
  plan.model = where;
  plan.options = options;
  plan.info = model_info(checkpoint.config(), where);
  plan.architecture = plan.info.architecture;
  plan.compressed = is_compressed(checkpoint.config());
  plan.size_on_disk = checkpoint.size_on_disk();

  // The plain model of the same config.json: what there is to convert, and which layers have which cache.
  const auto [shapes, layers] = shapes_of_config(checkpoint.path(), checkpoint.config());
  for (const LayerMemory& layer : layers)
    ++(layer.state_floats > 0 ? plan.linear_layers : layer.window > 0 ? plan.sliding_layers : plan.full_layers);
  const nlohmann::json config = text_config(checkpoint.config(), where);
  const int64_t per_token = config_integer_or(config, where, "num_experts_per_tok", 1);
  int64_t experts = 0;
  uint64_t expert_weights = 0;
  for (const TensorInfo& tensor : shapes->tensors()) {
    const auto weights = static_cast<uint64_t>(tensor.shape.elements());
    plan.parameters += weights;
    if (const int64_t number = expert_number(tensor.name); number >= 0) {
      expert_weights += weights;
      experts = std::max(experts, number + 1);
    }
  }
  plan.active_parameters = plan.parameters;
  if (experts > 0)
    plan.active_parameters -= expert_weights / static_cast<uint64_t>(experts) *
                              static_cast<uint64_t>(std::max<int64_t>(experts - per_token, 0));

  plan.weights.push_back(weights_as_they_are(summarize(checkpoint)));
  const Checkpoint& source = plan.compressed ? *shapes : checkpoint;
  for (const int bits : kWeightBits) plan.weights.push_back(converted_weights(source, bits, options));
  if (options.bits == 0 && options.target_bytes == 0) plan.options.bits = plan.compressed ? 16 : 3;
  const auto is_asked_for = [&](const WeightPlan& weights) { return weights.bits == plan.options.bits; };
  if (std::none_of(plan.weights.begin(), plan.weights.end(), is_asked_for))
    plan.weights.push_back(converted_weights(source, plan.options.bits, options));
  for (const WeightPlan& weights : plan.weights)
    if (is_asked_for(weights)) plan.chosen = weights;
  // Attention that has more bits than the rest by default can have as many.
  if (const double bits = plan.chosen.bits;
      plan.architecture == "gpt_oss" && (bits == 2 || bits == 3 || bits == 4) && options.bits_for.empty())
    plan.lighter.push_back(
        converted_weights(source, bits, options, "*.self_attn.*=" + std::to_string(static_cast<int>(bits))));
  for (const WeightPlan& weights : plan.weights)
    if (weights.bytes < plan.chosen.bytes &&
        (plan.chosen.bits == 0 ? weights.bits != 16 : weights.bits < plan.chosen.bits))
      plan.lighter.push_back(weights);

  const MachineMemory machine = machine_memory();
  if (options.ram == 0) {
    plan.options.ram = machine.total;
    plan.available = machine.available;
  }
  plan.workspace = workspace_bytes(*shapes, plan.info, per_token, plan.options);
  const Planner planner(plan, layers);
  for (const KvBits& kv : planner.choices()) plan.kv_choices.emplace_back(kv, planner.cache(options.context, kv).kv);
  plan.kv_compressed = options.kv.kv_bits.compressed() ? options.kv.kv_bits : KvBits{3, 3};
  for (const int64_t length : options.kv_lengths)
    plan.kv_lengths.push_back(
        {length, planner.cache(length, {16, 16}).kv, planner.cache(length, plan.kv_compressed).kv});
  const CacheBytes cache = planner.cache(options.context, options.kv.kv_bits);
  plan.kv = cache.kv;
  plan.state = cache.state;
  plan.total = plan.chosen.bytes + plan.kv + plan.state + plan.workspace;
  plan.fits = plan.total <= plan.options.ram;
  plan.runs_from_file = !plan.fits && plan.total - plan.chosen.bytes <= plan.options.ram;
  if (!plan.fits) plan.flags = planner.flags();
  return plan;
}

std::unique_ptr<Checkpoint> open_for_plan(const std::string& model, const std::string& revision, const Say& say) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  fs::path path = model;
  if (!fs::exists(path, ignored)) {
    if (const nlohmann::json* config = known_config(model)) return shapes_of_config(model, *config).checkpoint;
    if (std::count(model.begin(), model.end(), '/') != 1)
      throw Error(model + ": no such file or folder, and none of the known models: " + known_config_names());
    const HubHeaders headers = hub_headers(model, revision, say);
    std::vector<TensorInfo> tensors;
    for (const HubHeaders::File& file : headers.files)
      for (TensorInfo& tensor : safetensors_header_tensors(file.header, model + "/" + file.name))
        tensors.push_back(std::move(tensor));
    return checkpoint_of_headers(model, parse_json(headers.config, model + "/config.json"), std::move(tensors));
  }
  if (fs::is_directory(path, ignored)) {
    const fs::path config = path / "config.json";
    bool weights = !fs::exists(config, ignored);
    for (const auto& entry : fs::directory_iterator(path, ignored))
      weights = weights || entry.path().extension() == ".safetensors";
    if (weights) return open_checkpoint(path);
    path = config;
  }
  if (path.extension() != ".json") return open_checkpoint(path);
  return shapes_of_config(model, read_json(path)).checkpoint;
}

}  // namespace turboquant
