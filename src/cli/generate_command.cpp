#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <optional>

#include "cli/command.h"
#include "cli/step_cost.h"
#include "cli/writer.h"
#include "core/interrupt.h"
#include "generate/state.h"
#include "turboquant/language_model.h"

namespace turboquant {
namespace {

struct GenerateState {
  WriterOptions writer;
  std::string prompt = "Why is the sky blue?", prompt_cache;
  bool prompt_cache_all = false, prompt_cache_ro = false;
};

double rate(int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }

// Where the time went, that of sampler and tokenizer included.
void print_profile(LanguageModel& model, const GenerateResult& result) {
  const LanguageModel::State& state = model.state();
  const StepCost cost = step_cost(*state.checkpoint, state.model->info().tied_head);
  const auto steps = static_cast<double>(std::max<size_t>(result.tokens.size(), 2) - 1);
  // Of the cache about half of what the answer added was read, on average.
  const double depth = static_cast<double>(result.prompt_tokens) + steps / 2;
  const double kv_bytes =
      static_cast<double>(result.cache_bytes) * depth / (static_cast<double>(result.prompt_tokens) + steps);
  const std::map<OpClass, double> bytes = cost.by_class(kv_bytes);
  fmt::print(stderr, "{:<20} {:>10} {:>8} {:>12} {:>8} {:>8}\n", "Time", "prompt ms", "share", "ms a token", "share",
             "GB/s");
  const auto row = [&](std::string_view name, double prompt, double answer, double read) {
    if (prompt == 0 && answer == 0) return;
    fmt::print(stderr, "{:<20} {:>10.2f} {:>7.1f}% {:>12.3f} {:>7.1f}% {:>8}\n", name, prompt * 1e3,
               100 * prompt / result.prefill_seconds, answer * 1e3 / steps, 100 * answer / result.decode_seconds,
               read > 0 && answer > 0 ? fmt::format("{:.1f}", read * steps / answer * 1e-9) : "-");
  };
  for (size_t i = 0; i < kOpClasses; ++i) {
    const auto op = static_cast<OpClass>(i);
    const auto read = bytes.find(op);
    row(name(op), state.prompt_profile[op].seconds, (*state.profile)[op].seconds,
        read == bytes.end() ? 0 : read->second);
  }
  row("sampling and text", result.prefill_seconds - state.prompt_profile.seconds(),
      result.decode_seconds - state.profile->seconds(), 0);
  row("all", result.prefill_seconds, result.decode_seconds, cost.bytes() + kv_bytes);
}

void run(const GenerateState& state) {
  Writer writer(state.writer);
  LanguageModel& model = writer.model;
  GenerateOptions& options = writer.options;
  std::optional<KvCache> cache;
  const std::string& file = state.prompt_cache;
  if (!file.empty()) {
    cache = std::filesystem::exists(file) ? model.load_cache(file) : model.make_cache();
    options.cache = &*cache;
    if (!state.prompt_cache_ro && !state.prompt_cache_all)
      options.on_prompt = [&, known = cache->tokens()] {
        if (cache->tokens() != known) cache->save(file);
      };
  }
  const GenerateResult result = model.generate(state.prompt, options, [](std::string_view text) {
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  });
  fmt::print("\n");
  std::fflush(stdout);
  if (cache && state.prompt_cache_all && !state.prompt_cache_ro) cache->save(file);
  const auto generated = static_cast<int64_t>(result.tokens.size());
  message(fmt::format(
      "Prompt: {} tokens, {}{:.1f} tokens-per-sec", result.prompt_tokens,
      result.cached_tokens > 0 ? fmt::format("{} of them from the prompt cache, ", result.cached_tokens) : "",
      rate(result.prompt_tokens - result.cached_tokens, result.prefill_seconds)));
  message(fmt::format("Generation: {} tokens, {:.1f} tokens-per-sec", generated,
                      rate(generated - 1, result.decode_seconds)));
  if (result.drafted_tokens > 0)
    message(fmt::format("Drafts: {} of {} tokens came true", result.accepted_tokens, result.drafted_tokens));
  message(fmt::format("KV cache: {:.1f} MB, finished: {}", static_cast<double>(result.cache_bytes) * 1e-6,
                      result.finish_reason));
  if (state.writer.load.profile) print_profile(model, result);
  check_interrupt();
}

}  // namespace

void add_generate(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Write text with a model");
  auto state = std::make_shared<GenerateState>();
  add_writer_options(*command, state->writer);
  command->add_option("--prompt,-p", state->prompt, "What to answer or continue")->capture_default_str();
  command->add_flag("--raw", state->writer.generate.raw, "Take the prompt as it is, without the chat template");
  command->add_option("--prompt-cache", state->prompt_cache,
                      "File that keeps what was read of the prompt: made if it does not exist; used for as much as the "
                      "next prompt begins with; then written anew");
  command->add_flag("--prompt-cache-all", state->prompt_cache_all, "Keep the answer in it, too");
  command->add_flag("--prompt-cache-ro", state->prompt_cache_ro, "Use it, but do not write it");
  command->add_flag("--profile", state->writer.load.profile, "Print where the time goes, by kind of operation");
  command->footer(
      "Examples:\n  turboquant generate --model SmolLM2-4bit --prompt \"Name three rivers.\" --temp 0\n"
      "  turboquant generate --model SmolLM2-4bit --kv-bits k4v3 --prompt-cache essay.cache --prompt \"$(cat "
      "essay.txt)\"");
  command->callback([=] { run(*state); });
}

}  // namespace turboquant
