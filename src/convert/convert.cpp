#include "turboquant/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "convert/calibration.h"
#include "convert/conversion.h"
#include "convert/dense_source.h"
#include "convert/options.h"
#include "convert/partial_folder.h"
#include "core/clock.h"
#include "hub/checksum.h"
#include "hub/hub.h"
#include "io/files.h"
#include "io/mlx_quantization.h"
#include "io/safetensors.h"
#include "models/model.h"
#include "turboquant/version.h"

namespace turboquant {
namespace {

namespace fs = std::filesystem;

std::string checksum_of(const TokenSequences& text) {
  Checksum sum;
  for (const std::vector<int32_t>& sequence : text)
    sum.update({reinterpret_cast<const char*>(sequence.data()), sequence.size() * sizeof(int32_t)});
  return sum.hex();
}

std::string model_card(const ConvertOptions& options, const ConvertResult& result) {
  const std::string name = fs::path(options.model).filename().string();
  return fmt::format(
      "# {} in {:.3g} bits\n\n"
      "Compressed with TurboQuant ({} format, {:.2f} bits a weight over the linear layers{}). Source: {}.\n\n"
      "    turboquant generate --model . --prompt \"Why is the sky blue?\"\n",
      name, options.target_bytes > 0 ? result.bits_per_weight : options.bits, options.format,
      result.bits_per_weight_linear, options.calibration.text.empty() ? "" : ", calibrated", name);
}

// "Bits of the linear layers' weights: 2 for 18.2%, 3 for 81.8%"
std::string mix_text(const Conversion& conversion) {
  uint64_t all = 0;
  for (const auto& [bits, weights] : conversion.linear_weights_by_bits()) all += weights;
  std::string text = "Bits of the linear layers' weights:";
  for (const auto& [bits, weights] : conversion.linear_weights_by_bits())
    text += fmt::format("{} {} for {:.1f}%", text.ends_with(':') ? "" : ",", bits,
                        100 * static_cast<double>(weights) / static_cast<double>(all));
  return text;
}

}  // namespace

ConvertResult convert(const ConvertOptions& options) {
  const auto start = Clock::now();
  const auto say = [&](const std::string& line) {
    if (options.on_message) options.on_message(line);
  };
  ConversionSpec spec = conversion_spec(options);
  if (options.output.empty()) throw UsageError("no output folder given");
  fs::path output = fs::path(options.output).lexically_normal();
  if (!output.has_filename()) output = output.parent_path();
  // First: a download is not worth starting if there is no place for the result.
  PartialFolder folder(output, options.resume);
  say("Loading model from " + options.model);
  std::unique_ptr<Checkpoint> source = open_model(options.model, options.revision, options.on_message);
  const auto mlx = MlxQuantization::of(source->config(), options.model);
  source = dense_source(std::move(source));
  if (mlx && !source->config().contains("quantization"))
    say("Warning: the weights are quantized already (" + mlx->common().name() +
        ") and lose more by being quantized again; the original weights give better results");
  if (!source->note().empty()) say(source->note());
  model_info(source->config(), options.model);  // an architecture that cannot run is not worth converting

  const auto pool = make_thread_pool(options.threads);
  CalibrationData calibration;
  std::optional<Conversion> plan(std::in_place, *source, spec);  // fails early, if at all
  if (!options.calibration.text.empty()) {
    say(options.calibration.text == "self" ? "Calibrating on text that the model writes"
                                           : "Calibrating on " + options.calibration.text);
    calibration.prepare(*source, options.calibration, spec, pool);
    plan.emplace(*source, spec);
    say(fmt::format("Prepared {} tokens in {:.1f} s", calibration.text.size() * calibration.text.front().size(),
                    seconds_since(start)));
  }
  const Conversion& conversion = *plan;
  for (const std::string& warning : conversion.warnings()) say("Warning: " + warning);
  ConvertResult result;
  result.parameters = conversion.parameters();
  result.linear_layers = conversion.linear_layers();
  result.bits_per_weight_linear = conversion.bits_per_weight_linear();
  say(fmt::format("Quantizing to {} ({:.3f} bits a weight with indices and scales), format {}, rotation {}",
                  options.target_bytes > 0 ? fmt::format("{:.1f} MB", static_cast<double>(options.target_bytes) * 1e-6)
                                           : fmt::format("{} bits", options.bits),
                  result.bits_per_weight_linear, options.format, options.rotation));

  if (spec.budget) say(mix_text(conversion));

  const TokenSequences& text = calibration.text;
  const nlohmann::json fingerprint = {version(), files_fingerprint(source->path()), conversion.config()["quantization"],
                                      options.dtype, checksum_of(text)};
  const std::set<std::string> written = folder.begin(fingerprint.dump());
  if (!written.empty()) say(fmt::format("Resuming: {} tensors are written already", written.size()));
  if (folder.replaced()) say("Replacing an unfinished conversion (--resume goes on with one)");
  SafetensorsWriter writer(folder.path(), conversion.outputs(), file_metadata(spec.linear.method), written);
  const auto write = [&](const std::string& name, const Tensor& tensor) {
    writer.add(name, tensor);
    folder.add(name, [&] { writer.sync(); });
  };
  std::set<std::string> done = written;
  if (!text.empty()) {
    const auto begin = Clock::now();
    done.merge(calibrate(*source, conversion, text, options.calibration, pool, write, written,
                         [&](const std::string& name) { return writer.added(name); }));
    say(fmt::format("Calibrated in {:.1f} s", seconds_since(begin)));
  }
  conversion.run(*pool, write, done);
  writer.finish(result.parameters);
  result.bytes = writer.bytes();
  result.bits_per_weight = 8.0 * static_cast<double>(result.bytes) / static_cast<double>(result.parameters);
  for (const char* name : kModelFiles)
    if (const std::optional<std::string> text = source->file(name)) write_text(folder.path() / name, *text);
  write_text(folder.path() / "README.md", model_card(options, result));
  write_text(folder.path() / "config.json", conversion.config().dump(4) + "\n");  // last: without it nothing loads
  folder.keep();

  result.seconds = seconds_since(start);
  say(fmt::format("Quantized {} linear layers in {:.1f} s", result.linear_layers, result.seconds));
  say(fmt::format("{} parameters, {:.1f} MB, {:.2f} bits a weight over the whole file", result.parameters,
                  static_cast<double>(result.bytes) * 1e-6, result.bits_per_weight));
  say("Model saved to " + output.string());
  return result;
}

}  // namespace turboquant
