#include "cli/error_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "generate/evaluation_text.h"
#include "io/files.h"

namespace turboquant {
namespace {

constexpr uint64_t kMaxCsvBytes = 1 << 20;

// What is between commas, without spaces around it.
std::vector<std::string> fields_of(std::string_view line) {
  std::vector<std::string> fields;
  while (true) {
    const size_t comma = line.find(',');
    std::string_view field = line.substr(0, comma);
    field.remove_prefix(std::min(field.find_first_not_of(" \t"), field.size()));
    field = field.substr(0, field.find_last_not_of(" \t") + 1);
    fields.emplace_back(field);
    if (comma == line.npos) return fields;
    line.remove_prefix(comma + 1);
  }
}

std::optional<double> positive_number(const std::string& text) {
  try {
    size_t end = 0;
    const double value = std::stod(text, &end);
    if (end == text.size() && std::isfinite(value) && value > 0) return value;
  } catch (const std::exception&) {
  }
  return std::nullopt;
}

bool of_kv(const EvaluateRow& row) { return row.kv != "fp16"; }

std::string title_of(const EvaluateRow& row) {
  if (of_kv(row)) return "KV cache";
  if (row.format == "tcq16") return "TCQ16";
  if (row.format == "affine") return "Affine";
  return row.format == "original+qjl" ? "TurboQuant + QJL" : "TurboQuant";
}

}  // namespace

ChartSeries read_chart_points(const std::string& file) {
  ChartSeries series{std::filesystem::path(file).stem().string(), {}, false};
  const std::string text = with_newlines(read_text(file, kMaxCsvBytes));
  bool first = true;
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t") == line.npos || line.starts_with('#')) continue;
    const std::vector<std::string> fields = fields_of(line);
    const bool heading = std::exchange(first, false) && fields == std::vector<std::string>{"name", "bits", "kl"};
    if (heading) continue;
    std::optional<double> bits, kl;
    if (fields.size() == 3) bits = positive_number(fields[1]), kl = positive_number(fields[2]);
    if (!bits || !kl)
      throw Error(
          fmt::format("{}: line {}: {}: expected name,bits,kl with numbers above 0", file, number, quote(line)));
    series.points.push_back({*bits, *kl, fields[0]});
  }
  if (series.points.empty()) throw Error(file + ": no line name,bits,kl");
  return series;
}

Chart error_chart(const std::vector<EvaluateRow>& rows, const std::vector<ChartSeries>& more) {
  const bool weights =
      std::any_of(rows.begin(), rows.end(), [](const EvaluateRow& row) { return !of_kv(row) && row.kl > 0; });
  const bool texts =
      std::any_of(rows.begin(), rows.end(), [&](const EvaluateRow& row) { return row.text != rows.front().text; });
  Chart chart;
  chart.title = "Error against size" + (texts ? "" : ", " + rows.front().text);
  chart.x_label = weights ? "Bits a weight of the linear layers" : "Bits a value of the KV cache";
  chart.y_label = "KL divergence to the baseline, nats a token";
  chart.log_y = true;
  double kv_bytes = 0;  // of the baseline, with 16 bits a value
  for (const EvaluateRow& row : rows) {
    if (row.kl == 0) kv_bytes = row.kv_token_bytes;
    if (row.kl == 0 || of_kv(row) == weights) continue;
    const std::string name = title_of(row) + (texts ? ", " + row.text : "");
    auto series = std::find_if(chart.series.begin(), chart.series.end(),
                               [&](const ChartSeries& known) { return known.name == name; });
    if (series == chart.series.end()) series = chart.series.insert(series, ChartSeries{name, {}, true});
    const double bits = weights ? row.bits_per_weight_linear : 16 * row.kv_token_bytes / kv_bytes;
    series->points.push_back({bits, row.kl, of_kv(row) ? row.kv : row.config});
  }
  chart.series.insert(chart.series.end(), more.begin(), more.end());
  return chart;
}

}  // namespace turboquant
