#include "cli/needle.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "plot/picture.h"
#include "plot/plot.h"

namespace turboquant {
namespace {

std::string last_part(const std::string& model) { return std::filesystem::path(model).filename().string(); }

void print_table(const NeedleResult& result, size_t n_positions) {
  fmt::print("KV cache {}: whole keys, and digits, that were right (%), by tokens and position of the key\n",
             result.kv);
  fmt::print("{:>8}", "Tokens");
  for (size_t i = 0; i < n_positions; ++i) fmt::print("{:>12}", fmt::format("{} %", result.cells[i].position));
  fmt::print("\n");
  for (size_t i = 0; i < result.cells.size(); ++i) {
    const NeedleCell& cell = result.cells[i];
    if (i % n_positions == 0) fmt::print("{:>8}", cell.length);
    fmt::print("{:>6.0f} ({:>3.0f})", 100 * cell.keys, 100 * cell.digits);
    if ((i + 1) % n_positions == 0) fmt::print("\n");
  }
}

HeatMaps maps_of(const NeedleOptions& options, const std::vector<NeedleResult>& results) {
  HeatMaps maps;
  maps.title = "Digits of the key found by " + last_part(options.model) + ", %";
  maps.x_label = "Position of the key, %";
  maps.y_label = "Tokens";
  const size_t n_positions = options.positions.size();
  for (const int position : options.positions) maps.columns.push_back(std::to_string(position));
  for (size_t i = 0; i < results.front().cells.size(); i += n_positions)
    maps.rows.push_back(std::to_string(results.front().cells[i].length));
  for (const NeedleResult& result : results) {
    HeatMapPanel& panel = maps.panels.emplace_back();
    panel.title = "KV cache " + result.kv;
    for (const NeedleCell& cell : result.cells) panel.values.push_back(cell.digits);
  }
  return maps;
}

}  // namespace

CLI::Option* add_needle_options(CLI::App& command, NeedleOptions& options, bool& asked) {
  CLI::Option* needle = command.add_flag(
      "--needle", asked, "Instead: hide a key in long texts and ask for it, with the fp16 cache and --kv-bits");
  command.add_option("--needle-lengths", options.lengths, "Tokens of the texts; default: 512, 1024, ... 8192")
      ->needs(needle)
      ->check(at_least(1));
  command.add_option("--needle-positions", options.positions, "Where the key stands, in percent")
      ->capture_default_str()
      ->needs(needle);
  command.add_option("--needle-trials", options.trials, "Keys at each length and position")
      ->capture_default_str()
      ->needs(needle);
  command.add_option("--needle-seed", options.seed, "Seed of the keys")->capture_default_str()->needs(needle);
  command.add_flag("--raw", options.raw, "With --needle: without the model's chat template")->needs(needle);
  return needle;
}

void run_needle(const NeedleOptions& options, const std::string& json, const std::string& plot) {
  const std::vector<NeedleResult> results = find_needles(options);
  for (const NeedleResult& result : results) {
    if (&result != results.data()) fmt::print("\n");
    print_table(result, options.positions.size());
  }
  if (!json.empty()) {
    std::vector<std::string> lines;
    for (const NeedleResult& result : results)
      for (const NeedleCell& cell : result.cells)
        lines.push_back(nlohmann::ordered_json{
            {"model", options.model},
            {"kv", result.kv},
            {"length", cell.length},
            {"position", cell.position},
            {"prompt_tokens", cell.prompt_tokens},
            {"trials", options.trials},
            {"keys", cell.keys},
            {"digits",
             cell.digits}}.dump());
    write_json_rows(json, lines);
  }
  if (!plot.empty()) write_picture(plot, svg_of(maps_of(options, results)));
}

}  // namespace turboquant
