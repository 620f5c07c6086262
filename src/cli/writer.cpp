#include "cli/writer.h"

#include "cli/command.h"

namespace turboquant {
namespace {

void add_sampling_options(CLI::App& command, GenerateOptions& options) {
  command.add_option("--max-tokens,-m,-n", options.max_tokens, "Most tokens to write")->capture_default_str();
  command.add_option("--temp,--temperature", options.temperature, "Temperature; 0: always the most likely token")
      ->capture_default_str();
  command.add_option("--top-k", options.top_k, "Only the k most likely tokens; 0: off")->capture_default_str();
  command.add_option("--top-p", options.top_p, "Only the most likely tokens that together reach p; 1: off")
      ->capture_default_str();
  command.add_option("--min-p", options.min_p, "Only tokens at least p times as likely as the best; 0: off")
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", options.repetition_penalty,
                  "Divides the scores of tokens in the text; 1: off")
      ->capture_default_str();
  command.add_option("--seed", options.seed, "Makes sampling repeatable");
  command.add_option("--stop", options.stop, "Text that ends the answer; may be repeated");
  command.add_option("--system", options.system, "System message for the chat template");
}

void add_draft_options(CLI::App& command, WriterOptions& options) {
  command.add_option(
      "--draft", options.generate.draft,
      "Speculative decoding, the same text faster. ngram: guess what followed where the last tokens stood "
      "before; for answers that repeat their prompt");
  command.add_option("--draft-model", options.draft_model, "A smaller model with the same tokenizer that guesses");
  command.add_option("--draft-max", options.generate.draft_max, "Tokens guessed at once, at most")
      ->capture_default_str();
}

LoadOptions load_options(const WriterOptions& with) {
  LoadOptions load = with.load;
  load.on_message = message;
  load.qjl = !with.fast;
  return load;
}

}  // namespace

void add_writer_options(CLI::App& command, WriterOptions& options) {
  add_model_option(command, options.model, options.load.revision);
  add_sampling_options(command, options.generate);
  add_cache_dtype_option(command, options.load.kv);
  add_kv_options(command, options.load.kv);
  add_kv_start_option(command, options.load.kv, true);
  add_draft_options(command, options);
  command.add_flag("--exact", options.load.exact, "fp32 activations instead of int8: slower");
  command.add_flag("--fast", options.fast,
                   "Leave out the QJL residuals of a model converted with --use-qjl: faster, less exact");
  add_threads_option(command, options.load.threads);
  add_memory_options(command, options.load.preload, options.load.lock);
  add_repack_option(command, options.load.repack);
}

Writer::Writer(const WriterOptions& with)
    : model(LanguageModel::load(with.model, load_options(with))), options(with.generate) {
  if (with.draft_model.empty()) return;
  LoadOptions load = load_options(with);
  load.revision.clear();
  load.profile = false;
  draft = LanguageModel::load(with.draft_model, load);
  options.draft_model = &*draft;
}

}  // namespace turboquant
