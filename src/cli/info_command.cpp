#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "models/model.h"
#include "nn/roles.h"
#include "quant/tile.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

/// The weights of one role in one storage.
struct Share {
  uint64_t tensors = 0, weights = 0, bytes = 0;
};

std::string storage(const Checkpoint& checkpoint, const TensorInfo& tensor, const std::string& module) {
  if (tensor.dtype == DType::u8 && tensor.shape.rank() == 3)
    for (const int bits : {2, 3, 4, 8})
      if (tensor.shape.back() == block_bytes(bits)) return bits == 8 ? "int8 rows" : fmt::format("TCQ16 {} bits", bits);
  if (tensor.dtype == DType::u32)
    return checkpoint.find(module + ".codebook") != nullptr ? "TurboQuant (original)" : "affine";
  return std::string(name(tensor.dtype));
}

uint64_t weights_in(const Checkpoint& checkpoint, const TensorInfo& tensor, const std::string& module) {
  const TensorInfo* scales = checkpoint.find(module + ".scales");
  if (scales == nullptr) return static_cast<uint64_t>(tensor.shape.elements());
  if (tensor.dtype == DType::u8) return static_cast<uint64_t>(scales->shape[0] * tensor.shape[1] * kGroup);
  const int64_t group =
      checkpoint.config().value("quantization", nlohmann::json::object()).value("group_size", int64_t{64});
  return static_cast<uint64_t>(scales->shape.elements() * group);
}

}  // namespace

void add_info(CLI::App& app) {
  CLI::App* command = app.add_subcommand("info", "Describe a model: architecture, sizes, bits, memory needed");
  struct State {
    std::string model;
    int64_t context = 4096;
    bool json = false;
  };
  auto state = std::make_shared<State>();
  command->add_option("model,--model,--hf-path", state->model, "Hugging Face folder, converted folder, or .gguf file")
      ->required();
  command->add_option("--context,-c", state->context, "Context length that memory is stated for")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", state->json, "Print JSON");
  command->callback([state] {
    const std::unique_ptr<Checkpoint> checkpoint = open_checkpoint(state->model);
    const ModelInfo info = model_info(checkpoint->config(), state->model);
    std::map<std::pair<Role, std::string>, Share> shares;
    Share all, linear;
    for (const TensorInfo& tensor : checkpoint->tensors()) {
      all.bytes += tensor.bytes();
      const std::string module(module_of(tensor.name));
      const Role role = role_of(tensor.name);
      if (role == Role::other) {
        if (tensor.name.ends_with(".scales") || tensor.name.ends_with(".biases") ||
            tensor.name.ends_with(".codebook") || tensor.name.ends_with(".signs"))
          continue;
        all.weights += static_cast<uint64_t>(tensor.shape.elements());
        continue;
      }
      Share& share = shares[{role, storage(*checkpoint, tensor, module)}];
      uint64_t bytes = tensor.bytes();
      for (const char* part : {".scales", ".biases", ".codebook"})
        if (const TensorInfo* extra = checkpoint->find(module + part)) bytes += extra->bytes();
      const uint64_t weights = weights_in(*checkpoint, tensor, module);
      share.tensors += 1;
      share.weights += weights;
      share.bytes += bytes;
      all.weights += weights;
      if (role == Role::linear) {
        linear.tensors += 1;
        linear.weights += weights;
        linear.bytes += bytes;
      }
    }
    const auto bits = [](const Share& s) {
      return s.weights == 0 ? 0 : 8.0 * static_cast<double>(s.bytes) / static_cast<double>(s.weights);
    };
    const int64_t context = std::min(state->context, info.max_context);
    const AttentionShape& attention = info.attention;
    const uint64_t cache =
        static_cast<uint64_t>(2 * info.n_layers * attention.n_kv_heads * attention.head_dim * context) * 2;
    if (state->json) {
      nlohmann::ordered_json json = {{"model", state->model},
                                     {"architecture", info.architecture},
                                     {"parameters", all.weights},
                                     {"size_bytes", all.bytes},
                                     {"bits_per_weight", bits(all)},
                                     {"bits_per_weight_linear", bits(linear)},
                                     {"layers", info.n_layers},
                                     {"hidden_size", info.hidden_size},
                                     {"intermediate_size", info.intermediate_size},
                                     {"heads", attention.n_heads},
                                     {"kv_heads", attention.n_kv_heads},
                                     {"head_dim", attention.head_dim},
                                     {"vocab_size", info.vocab_size},
                                     {"max_context", info.max_context},
                                     {"context", context},
                                     {"kv_cache_bytes", cache}};
      for (const auto& [key, share] : shares)
        json["weights"].push_back({{"role", key.first == Role::linear ? "linear"
                                            : key.first == Role::head ? "head"
                                                                      : "embedding"},
                                   {"storage", key.second},
                                   {"tensors", share.tensors},
                                   {"weights", share.weights},
                                   {"bytes", share.bytes},
                                   {"bits_per_weight", bits(share)}});
      fmt::print("{}\n", json.dump(2));
      return;
    }
    fmt::print("Model          {}\n", state->model);
    fmt::print("Architecture   {}: {} layers, hidden {}, intermediate {}, {} heads of {} ({} for keys and values)\n",
               info.architecture, info.n_layers, info.hidden_size, info.intermediate_size, attention.n_heads,
               attention.head_dim, attention.n_kv_heads);
    fmt::print("Vocabulary     {}, context {}, {} head\n", info.vocab_size, info.max_context,
               info.tied_head ? "tied" : "separate");
    fmt::print("Parameters     {}\n", all.weights);
    fmt::print("Size           {:.1f} MB, {:.3f} bits a weight; linear layers {:.4f} bits a weight\n",
               static_cast<double>(all.bytes) * 1e-6, bits(all), bits(linear));
    for (const auto& [key, share] : shares)
      fmt::print("  {:<12} {:<22} {:>4} tensors {:>12} weights {:>9.1f} MB {:>8.4f} bits a weight\n",
                 key.first == Role::linear ? "linear"
                 : key.first == Role::head ? "head"
                                           : "embedding",
                 key.second, share.tensors, share.weights, static_cast<double>(share.bytes) * 1e-6, bits(share));
    fmt::print("Memory at {}  {:.1f} MB weights (mapped) + {:.1f} MB KV cache (fp16)\n", context,
               static_cast<double>(all.bytes) * 1e-6, static_cast<double>(cache) * 1e-6);
  });
}

}  // namespace turboquant
