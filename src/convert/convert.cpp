#include "turboquant/convert.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>

#include "convert/conversion.h"
#include "convert/dense_source.h"
#include "convert/options.h"
#include "io/mlx_quantization.h"
#include "io/safetensors.h"
#include "models/model.h"

namespace turboquant {
namespace {

namespace fs = std::filesystem;

// Files that go with a model into the converted folder.
constexpr std::array kSidecars = {
    "tokenizer.json",     "tokenizer_config.json",   "special_tokens_map.json", "chat_template.jinja",
    "chat_template.json", "generation_config.json",  "added_tokens.json",       "vocab.json",
    "merges.txt",         "preprocessor_config.json"};

/// A folder beside the final one that vanishes unless it is kept.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& final) : final_(final) {
    path_ = final.parent_path() / ("." + final.filename().string() + ".tmp-" + std::to_string(getpid()));
    std::error_code error;
    if (fs::exists(final, error))
      throw Error(final.string() + ": exists already; choose another output folder, or remove it");
    for (fs::path parent = final.parent_path(); !parent.empty() && !fs::exists(parent, error);
         parent = parent.parent_path())
      made_.push_back(parent);
    if (!made_.empty()) fs::create_directories(made_.front(), error);
    if (error || !fs::create_directory(path_, error))
      throw Error(path_.string() + ": cannot create the output folder: " + error.message());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (path_.empty()) return;
    fs::remove_all(path_, ignored);
    for (const fs::path& parent : made_) fs::remove(parent, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }
  void keep() {
    sync_folder(path_);
    std::error_code error;
    fs::rename(path_, final_, error);
    if (error) throw Error(final_.string() + ": cannot rename the finished folder to this name: " + error.message());
    path_.clear();
    sync_folder(final_.parent_path().empty() ? fs::path(".") : final_.parent_path());
  }

 private:
  fs::path path_, final_;
  std::vector<fs::path> made_;  // parents that were not there, the innermost first
};

std::string model_card(const ConvertOptions& options, const ConvertResult& result) {
  const std::string name = fs::path(options.model).filename().string();
  return fmt::format(
      "# {} in {} bits\n\n"
      "Compressed with TurboQuant ({} format, {:.2f} bits a weight over the linear layers). Source: {}.\n\n"
      "    turboquant generate --model . --prompt \"Why is the sky blue?\"\n",
      name, options.bits, options.format, result.bits_per_weight_linear, name);
}

}  // namespace

ConvertResult convert(const ConvertOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const auto say = [&](const std::string& line) {
    if (options.on_message) options.on_message(line);
  };
  const ConversionSpec spec = conversion_spec(options);
  if (options.output.empty()) throw UsageError("no output folder given");
  fs::path output = fs::path(options.output).lexically_normal();
  if (!output.has_filename()) output = output.parent_path();
  say("Loading model from " + options.model);
  std::unique_ptr<Checkpoint> source = open_checkpoint(options.model);
  const auto mlx = MlxQuantization::of(source->config(), options.model);
  source = dense_source(std::move(source));
  if (mlx && !source->config().contains("quantization"))
    say("Warning: the weights are quantized already (" + mlx->common().name() +
        ") and lose more by being quantized again; the original weights give better results");
  if (!source->note().empty()) say(source->note());
  model_info(source->config(), options.model);  // an architecture that cannot run is not worth converting
  TemporaryFolder folder(output);

  const Conversion conversion(*source, spec);
  for (const std::string& warning : conversion.warnings()) say("Warning: " + warning);
  ConvertResult result;
  result.parameters = conversion.parameters();
  result.linear_layers = conversion.linear_layers();
  result.bits_per_weight_linear = conversion.bits_per_weight_linear();
  say(fmt::format("Quantizing to {} bits ({:.3f} bits a weight with indices and scales), format {}, rotation {}",
                  options.bits, result.bits_per_weight_linear, options.format, options.rotation));

  ThreadPool pool(options.threads);
  SafetensorsWriter writer(folder.path(), conversion.outputs(),
                           {{"format", options.format == "tcq16" ? "turboquant" : "mlx"}});
  conversion.run(pool, [&](const std::string& name, const Tensor& tensor) {
    writer.add(name, tensor);
    result.bytes += tensor.bytes();
  });
  writer.finish(result.parameters);
  result.bits_per_weight = 8.0 * static_cast<double>(result.bytes) / static_cast<double>(result.parameters);
  for (const char* name : kSidecars)
    if (const std::optional<std::string> text = source->file(name)) write_text(folder.path() / name, *text);
  write_text(folder.path() / "config.json", conversion.config().dump(4) + "\n");
  write_text(folder.path() / "README.md", model_card(options, result));
  folder.keep();

  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  say(fmt::format("Quantized {} linear layers in {:.1f} s", result.linear_layers, result.seconds));
  say(fmt::format("{} parameters, {:.1f} MB, {:.2f} bits a weight over the whole file", result.parameters,
                  static_cast<double>(result.bytes) * 1e-6, result.bits_per_weight));
  say("Model saved to " + output.string());
  return result;
}

}  // namespace turboquant
