#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "generate/plan.h"
#include "generate/state.h"
#include "io/files.h"
#include "models/shapes.h"

namespace turboquant {
namespace {

// "48.32 GB", "5.90 MB"
std::string size_text(uint64_t bytes) {
  const bool large = bytes >= 1'000'000'000;
  return fmt::format("{:>8.2f} {}", static_cast<double>(bytes) * (large ? 1e-9 : 1e-6), large ? "GB" : "MB");
}

std::string weights_name(const WeightPlan& weights) {
  return weights.bits == 16  ? "as they are"
         : weights.bits == 0 ? "target size"
                             : fmt::format("--bits {}", weights.bits);
}

void print_kv_lengths(const Plan& plan) {
  fmt::print("\n{:<14} {:>12} {:>12} {:>6}\n", "KV cache after", "fp16", to_string(plan.kv_compressed), "ratio");
  for (const KvLength& row : plan.kv_lengths)
    fmt::print("{:<14} {:>12} {:>12} {:>6.2f}\n", fmt::format("{} tokens", row.context), size_text(row.fp16),
               size_text(row.compressed), static_cast<double>(row.fp16) / static_cast<double>(row.compressed));
}

void print_text(const Plan& plan) {
  const PlanOptions& options = plan.options;
  const auto mark = [](bool chosen) { return chosen ? "  <" : ""; };
  fmt::print("Model          {}\n", plan.model);
  fmt::print("Architecture   {}: {} layers: {} of full attention, {} of sliding windows, {} of linear attention\n",
             plan.architecture, plan.info.n_layers, plan.full_layers, plan.sliding_layers, plan.linear_layers);
  fmt::print("Parameters     {:.2f} billion", static_cast<double>(plan.parameters) * 1e-9);
  if (plan.active_parameters != plan.parameters)
    fmt::print(", of which a token meets {:.2f} billion", static_cast<double>(plan.active_parameters) * 1e-9);
  fmt::print("\nOn disk        {}\n", size_text(plan.size_on_disk));
  for (const WeightPlan& weights : plan.weights)
    fmt::print("{:<14} {:<12} {}  {:>6.3f} bits a weight{}\n", &weights == plan.weights.data() ? "Weights" : "",
               weights_name(weights), size_text(weights.bytes), weights.bits_per_weight,
               mark(weights.bits == plan.chosen.bits));
  for (const auto& [bits, bytes] : plan.kv_choices)
    fmt::print("{:<14} {:<12} {}{}\n", &bits == &plan.kv_choices.front().first ? "KV cache" : "", to_string(bits),
               size_text(bytes), mark(bits == options.kv.kv_bits));
  fmt::print("{:<14} {} tokens{}{}\n", "", options.context,
             options.parallel > 1 ? fmt::format(" in each of {} sequences", options.parallel) : "",
             options.context > plan.info.max_context
                 ? fmt::format("; the model was made for {} at most", plan.info.max_context)
                 : "");
  if (plan.state > 0) fmt::print("{:<27} {}\n", "State of linear attention", size_text(plan.state));
  fmt::print("{:<27} {}\n", "Weights and KV cache", size_text(plan.chosen.bytes + plan.kv + plan.state));
  fmt::print("{:<27} {}\n", "Workspace (about)", size_text(plan.workspace));
  fmt::print("{:<27} {}  weights {}, KV cache {}\n", "Total", size_text(plan.total), weights_name(plan.chosen),
             to_string(options.kv.kv_bits));
  fmt::print("{:<27} {}{}\n", "Memory", size_text(options.ram),
             plan.available > 0 ? fmt::format(", of which {} are free now", size_text(plan.available)) : "");
  fmt::print("Verdict        {}\n",
             plan.fits && plan.available > 0 && plan.total > plan.available
                 ? "fits, once other programs give memory back"
             : plan.fits ? "fits"
             : plan.runs_from_file
                 ? "does not fit: it runs, but reads weights from the file again and again, at the speed of the disk"
                 : "does not fit");
  for (const std::string& flags : plan.flags) fmt::print("It fits with   {}\n", flags);
  if (!plan.fits && plan.flags.empty()) fmt::print("No flags make it fit.\n");
  if (!plan.kv_lengths.empty()) print_kv_lengths(plan);
}

nlohmann::ordered_json json_of(const Plan& plan) {
  const PlanOptions& options = plan.options;
  nlohmann::ordered_json json = {{"model", plan.model},
                                 {"architecture", plan.architecture},
                                 {"parameters", plan.parameters},
                                 {"active_parameters", plan.active_parameters},
                                 {"layers", plan.info.n_layers},
                                 {"full_attention_layers", plan.full_layers},
                                 {"sliding_attention_layers", plan.sliding_layers},
                                 {"linear_attention_layers", plan.linear_layers},
                                 {"max_context", plan.info.max_context},
                                 {"size_on_disk", plan.size_on_disk},
                                 {"compressed", plan.compressed},
                                 {"context", options.context},
                                 {"parallel", options.parallel},
                                 {"bits", json_number(plan.chosen.bits)},
                                 {"kv_bits", to_string(options.kv.kv_bits)},
                                 {"kv_keep_layers", options.kv.keep_layers},
                                 {"weight_bytes", plan.chosen.bytes},
                                 {"kv_cache_bytes", plan.kv},
                                 {"state_bytes", plan.state},
                                 {"workspace_bytes", plan.workspace},
                                 {"total_bytes", plan.total},
                                 {"ram_bytes", options.ram},
                                 {"fits", plan.fits},
                                 {"runs_from_file", plan.runs_from_file},
                                 {"flags", plan.flags}};
  if (plan.available > 0) json["available_bytes"] = plan.available;
  for (const WeightPlan& weights : plan.weights)
    json["weights"].push_back(
        {{"bits", json_number(weights.bits)}, {"bytes", weights.bytes}, {"bits_per_weight", weights.bits_per_weight}});
  for (const auto& [bits, bytes] : plan.kv_choices)
    json["kv_cache"].push_back({{"kv_bits", to_string(bits)}, {"bytes", bytes}});
  for (const KvLength& row : plan.kv_lengths)
    json["kv_cache_at"].push_back({{"context", row.context},
                                   {"fp16_bytes", row.fp16},
                                   {"kv_bits", to_string(plan.kv_compressed)},
                                   {"bytes", row.compressed}});
  return json;
}

}  // namespace

void add_plan(CLI::App& app) {
  CLI::App* command = app.add_subcommand("plan", "Say what a model needs to run, and what would make it fit");
  struct State {
    PlanOptions options;
    std::vector<int64_t> context;
    std::string model, revision, ram;
    KvCacheOptions kv;
    bool json = false;
  };
  auto state = std::make_shared<State>();
  PlanOptions& options = state->options;
  add_model_option(*command, state->model, state->revision, "model,--model,--hf-path")
      ->description(
          "Model folder, .gguf file, config.json alone, org/name on the hub (headers alone are fetched), or a " +
          ("known model: " + known_config_names()));
  state->context = {options.context};
  command
      ->add_option("--context,-c", state->context,
                   "Tokens of a sequence; of several the largest is planned for, and all are in a table of KV caches")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31));
  command->add_option("--parallel", options.parallel, "Sequences at a time")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  CLI::Option* bits =
      command
          ->add_option(
              "--bits,-b", options.bits,
              "Weights: 2 to 8 after conversion, decimals as in convert, 16 as they are; default: 3, or as they are if "
              "compressed")
          ->check(CLI::Range(2.0, 16.0));
  CLI::Option* head =
      command->add_option("--head-bits", options.head_bits, "Embedding and head after conversion: 4, 8 or 16")
          ->capture_default_str();
  add_target_size_option(*command, options.target_bytes)->excludes(bits)->excludes(head);
  add_precision_options(*command, options.bits_for, options.preset);
  add_kv_options(*command, state->kv);
  command->add_option("--ram", state->ram, "Memory to fit in, such as 48GB or 45GiB; default: of this machine");
  command->add_flag("--json", state->json, "Print JSON");
  command->footer("Example:\n  turboquant plan --model gpt-oss-120b --context 131072 --kv-bits 3 --ram 50GB");
  command->callback([state] {
    state->options.kv = cache_options(state->kv);
    state->options.context = *std::max_element(state->context.begin(), state->context.end());
    if (state->context.size() > 1) state->options.kv_lengths = state->context;
    if (!state->ram.empty()) state->options.ram = parse_size("--ram", state->ram, 1e9);
    const Plan plan = make_plan(*open_for_plan(state->model, state->revision, message), state->options);
    if (state->json)
      fmt::print("{}\n", json_of(plan).dump(2));
    else
      print_text(plan);
  });
}

}  // namespace turboquant
