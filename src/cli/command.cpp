#include "cli/command.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <charconv>
#include <cmath>
#include <csignal>
#include <new>
#include <nlohmann/json.hpp>

#include "cli/run_command.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "core/thread_pool.h"
#include "io/files.h"
#include "turboquant/error.h"
#include "turboquant/version.h"

namespace turboquant {
namespace {

constexpr const char* kDefaultKvBits = "k4v3";
constexpr int kError = 1, kUsage = 2, kInterrupted = 130;

// Every error is one line, whatever a file or a path put into it.
int fail(int code, std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  fmt::print(stderr, "error: {}\n", text);
  return code;
}

void set_up_messages(bool quiet) {
  auto logger = spdlog::stderr_logger_st("turboquant");
  logger->set_pattern("[%l] %v");
  logger->set_level(quiet ? spdlog::level::off : spdlog::level::info);
  spdlog::set_default_logger(logger);
  set_progress_enabled(!quiet && progress_possible());
}

void refuse_unknown_command(const CLI::App& app, int argc, const char* const* argv) {
  std::string known;
  bool found = false;
  for (const CLI::App* command : app.get_subcommands({})) {
    known += (known.empty() ? "" : ", ") + command->get_name();
    found = found || (argc > 1 && command->get_name() == argv[1]);
  }
  if (argc < 2) throw UsageError("no command given; known are: " + known + " (turboquant --help explains)");
  const std::string word = argv[1];
  if (!word.starts_with("-") && !found) throw UsageError("unknown command '" + word + "'; known are: " + known);
}

}  // namespace

void message(const std::string& line) { spdlog::info("{}", line); }

CLI::Option* add_model_option(CLI::App& command, std::string& model, std::string& revision, const std::string& names) {
  command.add_option("--revision", revision, "Branch, tag or commit of a model from the hub; default: main");
  return command.add_option(names, model, "Folder, .gguf file, or org/name on the Hugging Face hub, to be downloaded")
      ->required();
}

void add_precision_options(CLI::App& command, std::vector<std::string>& bits_for, std::string& preset) {
  command
      .add_option("--bits-for", bits_for,
                  "GLOB=BITS: 2, 3, 4, 8, or 16 to leave, for the matrices of these names, such as '*.down_proj=4' or "
                  "'model.layers.0.*=8'; repeatable, later ones win")
      ->allow_extra_args(false);
  command.add_option(
      "--preset", preset,
      "A mix on top of 2, 3 or 4 --bits; --bits-for wins over it. dense: v, o and down get a bit more (of 4 bits: v "
      "gets "
      "8); measured on SmolLM2-135M: at 3 bits +0.38 bits a weight for 0.40 of the KL divergence, at 4 "
      "bits +0.12 for 0.71. moe: attention and shared experts get 8 bits, experts stay at --bits; there: "
      "attention alone, at 3 bits, 0.54 of the KL divergence");
}

void add_calibration_options(CLI::App& command, CalibrationOptions& calibration) {
  // The value may be left out, so that a plain --calibrate means self.
  CLI::Option* text =
      command
          .add_option("--calibrate", calibration.text,
                      "Encode the weights for the inputs that they see on a text: self (the default; the model writes "
                      "it), or a text FILE or DIR. Takes minutes instead of seconds; on SmolLM2-135M it leaves a "
                      "quarter of the KL divergence at 3 bits, at no cost in size or speed")
          ->expected(0, 1)
          ->default_str("self");
  command.add_option("--calibrate-tokens", calibration.tokens, "Tokens of that text")
      ->capture_default_str()
      ->needs(text);
  command.add_option("--calibrate-seed", calibration.seed, "Seed of the text that the model writes")
      ->capture_default_str()
      ->needs(text);
  command
      .add_option("--calibrate-damping", calibration.damping,
                  "Added to the diagonal of an input's Hessian, whose mean is 1")
      ->capture_default_str()
      ->needs(text);
  command
      .add_option(
          "--calibrate-drift", calibration.drift,
          "How far weights make up for what the errors of earlier layers do to their input: 0 to 1; 0 takes half the "
          "time")
      ->capture_default_str()
      ->needs(text);
}

CLI::Option* add_target_size_option(CLI::App& command, uint64_t& bytes) {
  return command
      .add_option_function<std::string>(
          "--target-size", [&bytes](const std::string& text) { bytes = parse_size("--target-size", text, 1); },
          "Instead of --bits and --head-bits: the size of all weights on disk at most, such as 9GB, 700 MB, 1.5GiB, or "
          "bytes. Linear layers get 2, 3, 4 or 8 bits, embedding and head 4 or 8, whatever loses least; what "
          "--bits-for says stands and counts")
      ->type_name("SIZE");
}

uint64_t parse_size(const std::string& option, const std::string& text, double alone) {
  const auto refuse = [&] { return UsageError(option + " " + quote(text) + ": give a size such as 48GB or 45GiB"); };
  size_t end = 0;
  double value = 0;
  try {
    value = std::stod(text, &end);
  } catch (const std::exception&) {
    throw refuse();
  }
  std::string unit = text.substr(end);
  unit.erase(0, std::min(unit.find_first_not_of(' '), unit.size()));
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  double factor = unit.empty() ? alone : unit == "b" ? 1 : 0;
  for (const auto& [letter, power] : {std::pair{'k', 1}, std::pair{'m', 2}, std::pair{'g', 3}, std::pair{'t', 4}}) {
    const std::string start(1, letter);
    if (unit == start || unit == start + "b") factor = std::pow(1000.0, power);
    if (unit == start + "ib") factor = std::pow(1024.0, power);
  }
  const double bytes = value * factor;
  if (!(bytes >= 1) || bytes > 1e18) throw refuse();
  return static_cast<uint64_t>(bytes);
}

nlohmann::ordered_json json_number(double value) {
  if (value == std::floor(value) && std::abs(value) < 0x1p53) return static_cast<int64_t>(value);
  return value;
}

CLI::Validator at_least(int64_t least) {
  return {[least](std::string& text) {
            int64_t value = 0;
            if (CLI::detail::lexical_cast(text, value) && value >= least) return std::string();
            return text + ": must be a whole number of at least " + std::to_string(least);
          },
          "INT at least " + std::to_string(least)};
}

void add_threads_option(CLI::App& command, int& threads) {
  command.add_option("--threads,-t", threads, "Threads; 0: one a processor, and never more than that")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
}

void add_cache_dtype_option(CLI::App& command, KvCacheOptions& kv) {
  command.add_option("--cache-dtype", kv.dtype, "KV cache that is not compressed: float16 or float32")
      ->capture_default_str();
}

void add_kv_format_options(CLI::App& command, KvCacheOptions& kv) {
  command
      .add_option("--kv-format", kv.format,
                  "tcq: trellis codes, first and newest tokens exact; original: as turboquant-mlx does, for comparison")
      ->capture_default_str();
  command.add_option("--kv-group-size", kv.group_size, "Group size of --kv-format original: 32, 64 or 128")
      ->capture_default_str();
  command
      .add_option("--kv-keep-layers", kv.keep_layers,
                  "So many first and last layers with a KV cache keep it uncompressed")
      ->capture_default_str();
}

void add_kv_options(CLI::App& command, KvCacheOptions& kv) {
  command
      .add_option_function<std::string>(
          "--kv-bits", [&kv](const std::string& bits) { kv.bits = bits.empty() ? kDefaultKvBits : bits; },
          "KV cache: fp16 (the default), compressed to 2, 3, 4 or 8, or keys and values apart; without a value " +
              std::string(kDefaultKvBits))
      ->expected(0, 1)
      ->type_name("TEXT");
  add_kv_format_options(command, kv);
}

void add_kv_start_option(CLI::App& command, KvCacheOptions& kv, bool prompt) {
  command.add_option_function<std::string>(
      "--kv-start",
      [&kv, prompt](const std::string& text) {
        if (prompt && text == "prompt") {
          kv.start = KvCacheOptions::kAfterPrompt;
          return;
        }
        int64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size() || value < 0)
          throw UsageError("--kv-start " + quote(text) + ": give a number of tokens" + (prompt ? ", or prompt" : ""));
        kv.start = value;
      },
      std::string("Compress the cache once it holds so many tokens") +
          (prompt ? "; prompt: behind the prompt, as turboquant-mlx does" : "") + "; default: from the first");
}

void add_memory_options(CLI::App& command, bool& preload, bool& lock) {
  command.add_flag(
      "--preload", preload,
      "Read all weights into memory (of large pages) before the first token: slower to start, then faster");
  command.add_flag("--lock", lock, "Read all weights into memory and keep them there");
}

void add_repack_option(CLI::App& command, bool& repack) {
  command.add_flag_callback(
      "--no-repack", [&repack] { repack = false; },
      "Compute with the weights as the file has them: starts at once and needs no memory for copies, but is "
      "slower on processors that would arrange them anew (those with AVX2 alone)");
}

void write_json_rows(const std::string& path, const std::vector<std::string>& rows) {
  std::string text = "[\n";
  for (size_t i = 0; i < rows.size(); ++i) text += rows[i] + (i + 1 < rows.size() ? ",\n" : "\n");
  write_text(path, text + "]\n");
}

int run_command(int argc, const char* const* argv) {
  CLI::App app("TurboQuant: compress large language models to 2, 3 or 4 bits and run them fast on a CPU.",
               "turboquant");
  app.footer(
      "Start with:\n  turboquant convert --hf-path MODEL --mlx-path OUT --bits 4\n"
      "  turboquant generate --model OUT --prompt \"Why is the sky blue?\"\n"
      "  turboquant chat --model OUT\n"
      "Help on a command: turboquant COMMAND --help");
  app.set_version_flag("--version", std::string("turboquant ") + version());
  app.require_subcommand(1);
  app.fallthrough();
  bool quiet = false;
  app.add_flag("--quiet,-q", quiet, "Only results and errors: no messages, no progress bars");
  add_convert(app);
  add_generate(app);
  add_chat(app);
  add_evaluate(app);
  add_demo_kv(app);
  add_info(app);
  add_plan(app);
  add_bench(app);
  add_logits(app);
#ifdef TURBOQUANT_SERVER
  add_serve(app);
#endif
  add_completion(app);
  app.parse_complete_callback([&] { set_up_messages(quiet); });
  install_interrupt_handler();
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of the write, not the end of the process
  pin_calling_thread();
  try {
    refuse_unknown_command(app, argc, argv);
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    return fail(kUsage, std::string(error.what()) + " (turboquant --help explains)");
  } catch (const UsageError& error) {
    return fail(kUsage, error.what());
  } catch (const Interrupted&) {
    return fail(kInterrupted, "interrupted");
  } catch (const std::bad_alloc&) {
    return fail(kError, "out of memory");
  } catch (const std::exception& error) {
    return fail(kError, error.what());
  }
}

}  // namespace turboquant
