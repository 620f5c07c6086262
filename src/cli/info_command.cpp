#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "hub/hub.h"
#include "models/shapes.h"
#include "models/summary.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

const char* role_name(Role role) { return role == Role::linear ? "linear" : role == Role::head ? "head" : "embedding"; }

}  // namespace

void add_info(CLI::App& app) {
  CLI::App* command = app.add_subcommand("info", "Describe a model: architecture, sizes, bits, memory needed");
  struct State {
    std::string model, revision;
    int64_t context = 4096;
    bool json = false;
  };
  auto state = std::make_shared<State>();
  add_model_option(*command, state->model, state->revision, "model,--model,--hf-path");
  command->add_option("--context,-c", state->context, "Context length that memory is stated for")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_flag("--json", state->json, "Print JSON");
  command->callback([state] {
    const std::unique_ptr<Checkpoint> checkpoint = open_model(state->model, state->revision, message);
    const ModelInfo info = model_info(checkpoint->config(), state->model);
    const Summary summary = summarize(*checkpoint);
    const int64_t context = std::min(state->context, info.max_context);
    const AttentionShape& attention = info.attention;
    const uint64_t cache = cache_bytes(*make_cpu_ops(std::make_shared<ThreadPool>(1)),
                                       shapes_of_config(state->model, checkpoint->config()).memory, {}, context)
                               .kv;
    if (state->json) {
      nlohmann::ordered_json json = {{"model", state->model},
                                     {"architecture", info.architecture},
                                     {"parameters", summary.all.weights},
                                     {"size_bytes", summary.all.bytes},
                                     {"bits_per_weight", summary.all.bits_per_weight()},
                                     {"bits_per_weight_linear", summary.linear.bits_per_weight()},
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
      for (const auto& [key, share] : summary.matrices)
        json["weights"].push_back({{"role", role_name(key.first)},
                                   {"storage", key.second},
                                   {"tensors", share.tensors},
                                   {"weights", share.weights},
                                   {"bytes", share.bytes},
                                   {"bits_per_weight", share.bits_per_weight()}});
      fmt::print("{}\n", json.dump(2));
      return;
    }
    fmt::print("Model          {}\n", state->model);
    fmt::print("Architecture   {}: {} layers, hidden {}, intermediate {}, {} heads of {} ({} for keys and values)\n",
               info.architecture, info.n_layers, info.hidden_size, info.intermediate_size, attention.n_heads,
               attention.head_dim, attention.n_kv_heads);
    fmt::print("Vocabulary     {}, context {}, {} head\n", info.vocab_size, info.max_context,
               info.tied_head ? "tied" : "separate");
    fmt::print("Parameters     {}\n", summary.all.weights);
    if (!checkpoint->note().empty()) fmt::print("Note           {}\n", checkpoint->note());
    fmt::print("Size           {:.1f} MB, {:.3f} bits a weight; linear layers {:.4f} bits a weight\n",
               static_cast<double>(summary.all.bytes) * 1e-6, summary.all.bits_per_weight(),
               summary.linear.bits_per_weight());
    for (const auto& [key, share] : summary.matrices)
      fmt::print("  {:<12} {:<22} {:>4} tensors {:>12} weights {:>9.1f} MB {:>8.4f} bits a weight\n",
                 role_name(key.first), key.second, share.tensors, share.weights,
                 static_cast<double>(share.bytes) * 1e-6, share.bits_per_weight());
    fmt::print("Memory at {}  {:.1f} MB weights (mapped) + {:.1f} MB KV cache (fp16)\n", context,
               static_cast<double>(summary.all.bytes) * 1e-6, static_cast<double>(cache) * 1e-6);
  });
}

}  // namespace turboquant
