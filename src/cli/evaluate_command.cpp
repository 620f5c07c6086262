#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/error_chart.h"
#include "cli/needle.h"
#include "io/files.h"
#include "plot/picture.h"
#include "turboquant/evaluate.h"

namespace turboquant {
namespace {

constexpr const char* kDefaultText = "data/wikitext-2-raw-test.txt";

void print_table(const std::vector<EvaluateRow>& rows) {
  const EvaluateRow* baseline = rows.data();
  const bool texts = rows.back().text != rows.front().text;
  for (const EvaluateRow& row : rows) {
    if (&row == rows.data() || row.text != baseline->text) {
      baseline = &row;
      if (texts) fmt::print("{}{}: {} tokens\n", &row == rows.data() ? "" : "\n", row.text, row.tokens_scored);
      fmt::print("{:<20} {:>16} {:>16} {:>17} {:>7} {:>12} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9}\n", "Config", "PPL", "",
                 "KL", "KL p99", "top-1 %", "Size (MB)", "BPW", "BPW lin.", "KV B/tok", "Quant (s)", "Eval (s)");
    }
    const double ratio = std::exp(row.log_change);
    const std::string change = fmt::format("({:+.1f} +-{:.1f}%)", 100 * (ratio - 1), 100 * ratio * row.log_change_se);
    fmt::print("{:<20} {:>16} {:>16} {:>17} {:>7.3f} {:>12} {:>9.1f} {:>7.2f} {:>9.3f} {:>9.0f} {:>9.1f} {:>9.1f}\n",
               row.config, fmt::format("{:.2f} +-{:.2f}", row.perplexity, row.perplexity_se),
               &row == baseline ? "" : change, fmt::format("{:.4f} +-{:.4f}", row.kl, row.kl_se), row.kl_p99,
               fmt::format("{:.2f} +-{:.2f}", 100 * row.top1, 100 * row.top1_se),
               static_cast<double>(row.size_bytes) * 1e-6, row.bits_per_weight, row.bits_per_weight_linear,
               row.kv_token_bytes, row.quantize_s, row.evaluate_s);
  }
}

nlohmann::ordered_json original_row(const EvaluateRow& row) {
  return {{"config", row.config},
          {"perplexity", row.perplexity},
          {"size_gb", static_cast<double>(row.size_bytes) * 1e-9},
          {"bits_per_weight", row.bits_per_weight},
          {"params", row.params},
          {"quant_time_s", row.quantize_s},
          {"eval_time_s", row.evaluate_s}};
}

nlohmann::ordered_json head(const EvaluateOptions& options) {
  return {{"model", options.model},
          {"num_samples", options.num_samples},
          {"seq_len", options.seq_len},
          {"group_size", options.group_size}};
}

nlohmann::ordered_json json_row(const EvaluateOptions& options, const EvaluateRow& row) {
  nlohmann::ordered_json json = head(options);
  json.update(original_row(row));
  json.update({{"format", row.format},
               {"kv", row.kv},
               {"kv_token_bytes", row.kv_token_bytes},
               {"kv_key_cosine", row.kv_key_cosine},
               {"kv_value_cosine", row.kv_value_cosine},
               {"kv_coded_key_cosine", row.kv_coded_key_cosine},
               {"kv_coded_value_cosine", row.kv_coded_value_cosine},
               {"text", row.text},
               {"protocol", options.protocol},
               {"perplexity_se", row.perplexity_se},
               {"log_change", row.log_change},
               {"log_change_se", row.log_change_se},
               {"kl", row.kl},
               {"kl_se", row.kl_se},
               {"kl_p99", row.kl_p99},
               {"top1", row.top1},
               {"top1_se", row.top1_se},
               {"size_bytes", row.size_bytes},
               {"bits_per_weight_linear", row.bits_per_weight_linear},
               {"quantize_s", row.quantize_s},
               {"evaluate_s", row.evaluate_s},
               {"tokens_scored", row.tokens_scored}});
  json["bits"] = json_number(row.bits);
  return json;
}

}  // namespace

void add_evaluate(CLI::App& app) {
  CLI::App* command = app.add_subcommand("evaluate", "Measure what compression costs: perplexity, KL divergence, size");
  struct State {
    EvaluateOptions options;
    bool no_affine = false, include_affine = false, no_qjl = false, include_qjl = false;
    NeedleOptions needle;
    bool ask_needle = false;
    std::string json, output, plot, points;
  };
  auto state = std::make_shared<State>();
  EvaluateOptions& options = state->options;
  options.texts = {kDefaultText};
  add_model_option(*command, options.model, options.revision);
  CLI::Option* bits =
      command
          ->add_option("--bits,-b", options.bits,
                       "Rows of so many bits, each in every format; 8, and averages such as 3.25, in tcq16 alone")
          ->capture_default_str();
  CLI::Option* sizes = command
                           ->add_option_function<std::vector<std::string>>(
                               "--target-size",
                               [&options](const std::vector<std::string>& texts) {
                                 for (const std::string& text : texts)
                                   options.target_bytes.push_back(parse_size("--target-size", text, 1));
                               },
                               "Rows of tcq16 of these sizes, as in convert; then rows of bits only with --bits")
                           ->type_name("SIZE");
  CLI::Option* formats =
      command->add_option("--formats", options.formats, "tcq16, original (or mlx), affine")->capture_default_str();
  command
      ->add_option("--group-size,-g", options.group_size,
                   "Groups of the original's format and of affine: 32, 64 or 128")
      ->capture_default_str();
  command->add_option("--head-bits", options.head_bits, "Embedding and head of the tcq16 rows of --bits: 4, 8 or 16")
      ->capture_default_str();
  add_precision_options(*command, options.bits_for, options.preset);
  add_calibration_options(*command, options.calibration);
  command->add_option("--rotation", options.rotation, "hadamard, blockwise_hadamard (the same) or none")
      ->capture_default_str();
  command->add_option("--rotation-seed", options.rotation_seed, "Seed of the random signs")->capture_default_str();
  command->add_option("--kv-bits", options.kv_bits,
                      "Rows with a compressed KV cache, such as 3 k4v3 4; then rows of weights only with --bits");
  add_kv_format_options(*command, options.kv);
  add_kv_start_option(*command, options.kv, false);
  CLI::Option* samples =
      command->add_option("--num-samples,-n", options.num_samples, "Most windows to score")->capture_default_str();
  CLI::Option* window = command->add_option("--seq-len", options.seq_len, "Tokens a window")->capture_default_str();
  CLI::Option* text = command->add_option("--text", options.texts, "Text file; repeatable: every row on each text")
                          ->capture_default_str();
  command->add_option("--rows", options.rows, "Join the file's lines as WikiText rows: auto, yes, no")
      ->capture_default_str();
  command
      ->add_option("--protocol", options.protocol, "original: every token of a window; llama.cpp: as llama-perplexity")
      ->capture_default_str();
  command->add_flag("--include-affine", state->include_affine, "Affine rows (the default)");
  command->add_flag("--no-affine", state->no_affine, "No affine rows");
  command->add_flag("--no-qjl", state->no_qjl, "No QJL rows; of a converted folder, without its QJL residuals");
  command->add_flag("--include-qjl", state->include_qjl, "QJL rows of the original's format (the default)");
  command->add_flag("--exact", options.exact, "fp32 activations instead of int8: slower");
  command->add_option("--json", state->json, "Write the rows to this file: a JSON array, one object a row");
  command->add_option(
      "--plot", state->plot,
      "Draw the results, FILE.svg or FILE.png: KL divergence against bits, or with --needle a heat map");
  CLI::Option* points =
      command->add_option("--plot-points", state->points, "Points to draw beside: a CSV file of lines NAME,BITS,KL");
  CLI::Option* needle = add_needle_options(*command, state->needle, state->ask_needle);
  for (CLI::Option* other : {bits, sizes, formats, samples, window, text, points}) needle->excludes(other);
  command->add_option("--output,-o", state->output, "Write the rows as turboquant-mlx's evaluate does");
  add_threads_option(*command, options.threads);
  add_memory_options(*command, options.preload, options.lock);
  command->footer("Example:\n  turboquant evaluate --model SmolLM2-135M-Instruct --bits 3 4 --num-samples 40");
  command->callback([state, bits] {
    EvaluateOptions& options = state->options;
    if (!state->plot.empty()) check_picture_path("--plot", state->plot);
    if (state->ask_needle) {
      NeedleOptions& keys = state->needle;
      keys.model = options.model;
      keys.revision = options.revision;
      keys.kv_bits = options.kv_bits;
      keys.kv = options.kv;
      keys.exact = options.exact;
      keys.preload = options.preload;
      keys.lock = options.lock;
      keys.threads = options.threads;
      keys.on_message = message;
      run_needle(keys, state->json, state->plot);
      return;
    }
    const bool other_rows = !options.kv_bits.empty() || !options.target_bytes.empty();
    if (other_rows && bits->count() == 0) options.bits.clear();  // asked for these
    options.on_message = message;
    options.qjl = !state->no_qjl;
    if (state->no_affine) std::erase(options.formats, "affine");
    if (!state->points.empty() && state->plot.empty())
      throw UsageError("--plot-points " + state->points + ": there is no --plot to draw them in");
    if (!state->output.empty() && options.texts.size() > 1)
      throw UsageError("--output " + state->output + ": has no place for several texts; use --json");
    if (options.texts == std::vector<std::string>{kDefaultText} && !std::filesystem::exists(kDefaultText))
      throw Error(std::string(kDefaultText) + ": not found here; name a text with --text FILE");
    std::vector<ChartSeries> points;
    if (!state->points.empty()) points.push_back(read_chart_points(state->points));
    const std::vector<EvaluateRow> rows = evaluate(options);
    print_table(rows);
    if (!state->json.empty()) {
      std::vector<std::string> lines;
      for (const EvaluateRow& row : rows) lines.push_back(json_row(options, row).dump());
      write_json_rows(state->json, lines);
    }
    if (!state->output.empty()) {
      nlohmann::ordered_json json = head(options);
      for (const EvaluateRow& row : rows) json["results"].push_back(original_row(row));
      write_text(state->output, json.dump(2) + "\n");
    }
    if (!state->plot.empty()) write_picture(state->plot, svg_of(error_chart(rows, points)));
  });
}

}  // namespace turboquant
