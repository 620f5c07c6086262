#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "cli/command.h"
#include "core/interrupt.h"
#include "turboquant/language_model.h"

namespace turboquant {
namespace {

const std::string kLine(60, '=');

struct DemoRun {
  std::string label;
  GenerateResult result;
  double tok_s = 0;

  double megabytes() const { return static_cast<double>(result.cache_bytes) * 1e-6; }
  std::string summary() const {
    return fmt::format("Tokens: {}  |  Speed: {:.1f} tok/s  |  KV cache: {:.2f} MB", result.tokens.size(), tok_s,
                       megabytes());
  }
};

struct DemoOptions {
  std::string model, prompt = "Why is the sky blue?";
  LoadOptions load;
  GenerateOptions generate;
  int tq_bits = 0;
  bool compare = false;
};

// The prompt in full precision, then the cache compressed, then the answer.
DemoRun run(LanguageModel& model, const DemoOptions& options, KvCacheOptions kv) {
  DemoRun run;
  const bool compressed = kv.bits != "fp16";
  run.label = compressed ? fmt::format("TurboQuant {} KV{}", kv.bits.size() == 1 ? kv.bits + "-bit" : kv.bits,
                                       kv.format == "original" ? " (the original's format)" : "")
                         : "FP16 KV (standard)";
  fmt::print("{}\n{}\n{}\nModel: {}\nPrompt: {}\n\n", kLine, run.label, kLine, options.model, options.prompt);
  kv.start = KvCacheOptions::kAfterPrompt;
  KvCache cache = model.make_cache(kv);
  GenerateOptions generate = options.generate;
  generate.cache = &cache;
  run.result = model.generate(options.prompt, generate, [](std::string_view text) {
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  });
  const auto further = static_cast<double>(run.result.tokens.size()) - 1;
  run.tok_s = run.result.decode_seconds > 0 ? std::max(further, 0.0) / run.result.decode_seconds : 0;
  fmt::print("\n\nPrompt tokens: {}\n{}\n", run.result.prompt_tokens, run.summary());
  std::fflush(stdout);
  check_interrupt();
  return run;
}

void print_difference(const LanguageModel& model, const DemoRun& a, const DemoRun& b) {
  const std::vector<int32_t>&x = a.result.tokens, &y = b.result.tokens;
  const auto [at, other] = std::mismatch(x.begin(), x.end(), y.begin(), y.end());
  if (at == x.end() && other == y.end()) {
    fmt::print("The texts are the same\n");
    return;
  }
  const auto word = [&](auto token, auto end) {
    return token == end ? std::string("the end") : "'" + model.decode({*token}) + "'";
  };
  fmt::print("The texts first differ at token {}: {} and {}\n", at - x.begin() + 1, word(at, x.end()),
             word(other, y.end()));
}

void demo(const DemoOptions& options) {
  KvCacheOptions compressed = options.load.kv, plain = options.load.kv;
  if (options.tq_bits != 0) compressed.bits = std::to_string(options.tq_bits);
  if (options.compare && compressed.bits == "fp16") compressed.bits = "3";
  plain.bits = "fp16";
  LoadOptions load = options.load;
  load.kv = plain;
  LanguageModel model = LanguageModel::load(options.model, load);
  if (!options.compare) {
    run(model, options, compressed);
    return;
  }
  const DemoRun before = run(model, options, plain), after = run(model, options, compressed);
  fmt::print("\n{}\nCOMPARISON\n{}\n", kLine, kLine);
  for (const DemoRun* each : {&before, &after})
    fmt::print("{}\n{}\n{}\n\n", each->label, each->summary(), each->result.text);
  fmt::print("Memory savings: {:.2f}x\n", before.megabytes() / after.megabytes());
  print_difference(model, before, after);
}

}  // namespace

void add_demo_kv(CLI::App& app) {
  CLI::App* command = app.add_subcommand("demo-kv", "Show what a compressed KV cache saves, and what it changes");
  auto options = std::make_shared<DemoOptions>();
  options->generate.temperature = 0;
  add_model_option(*command, options->model, options->load.revision);
  command->add_option("--prompt,-p", options->prompt, "What to answer or continue")->capture_default_str();
  command->add_option("--max-tokens,-m,-n", options->generate.max_tokens, "Most tokens to write")
      ->capture_default_str();
  command->add_option("--tq-bits", options->tq_bits, "Bits of keys and values: 2, 3, 4 or 8; the same as --kv-bits")
      ->check(CLI::IsMember({2, 3, 4, 8}));
  command->add_flag("--compare", options->compare,
                    "Both caches one after the other; without --tq-bits fp16 and 3 bits");
  command->add_flag("--raw", options->generate.raw, "Take the prompt as it is, without the chat template");
  add_kv_options(*command, options->load.kv);
  add_threads_option(*command, options->load.threads);
  command->footer("Example:\n  turboquant demo-kv --model SmolLM2-4bit --prompt \"$(cat essay.txt)\" --compare");
  command->callback([options] {
    options->load.on_message = message;
    demo(*options);
  });
}

}  // namespace turboquant
