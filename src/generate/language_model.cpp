#include "turboquant/language_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/clock.h"
#include "core/interrupt.h"
#include "generate/cache_file.h"
#include "generate/drafter.h"
#include "generate/speculation.h"
#include "generate/state.h"
#include "generate/stop.h"
#include "hub/hub.h"
#include "io/config.h"
#include "models/sampler.h"

namespace turboquant {
namespace {

void add_end_tokens(const nlohmann::json& config, std::unordered_set<int32_t>& tokens) {
  const auto found = config.find("eos_token_id");
  if (found == config.end()) return;
  if (found->is_number_integer()) tokens.insert(found->get<int32_t>());
  if (found->is_array())
    for (const nlohmann::json& id : *found)
      if (id.is_number_integer()) tokens.insert(id.get<int32_t>());
}

std::string left_out_qjl(const Checkpoint& checkpoint) {
  const auto count = std::count_if(checkpoint.tensors().begin(), checkpoint.tensors().end(),
                                   [](const TensorInfo& info) { return info.name.ends_with(".qjl_packed"); });
  if (count == 0) return "The model has no QJL residuals to leave out";
  return "Left out the QJL residuals of " + std::to_string(count) + " layers";
}

}  // namespace

const Tokenizer& LanguageModel::State::tokenizer() {
  const std::lock_guard lock(tokenizer_mutex);
  if (!loaded_tokenizer) loaded_tokenizer = std::make_unique<Tokenizer>(load_tokenizer(*checkpoint));
  return *loaded_tokenizer;
}

const std::string& LanguageModel::State::fingerprint() {
  if (known_fingerprint.empty()) known_fingerprint = turboquant::fingerprint(*checkpoint);
  return known_fingerprint;
}

std::vector<int32_t> LanguageModel::State::prompt_tokens(std::string_view prompt, const GenerateOptions& options) {
  if (prompt.empty()) throw UsageError("the prompt is empty; give some text to continue");
  if (options.raw || !chat) return tokenizer().encode(prompt);
  std::vector<ChatMessage> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  messages.push_back({"user", std::string(prompt)});
  return prompt_tokens(messages);
}

std::vector<int32_t> LanguageModel::State::prompt_tokens(std::span<const ChatMessage> messages) {
  if (!chat)
    throw Error(checkpoint->path().string() + ": the model has no chat template, so it cannot chat; use generate");
  return tokenizer().encode(chat->render(messages), false);
}

std::unique_ptr<Drafter> LanguageModel::State::drafter(const GenerateOptions& options,
                                                       const std::vector<int32_t>& prompt) {
  if (!options.draft.empty() && options.draft != "ngram") throw UsageError("--draft " + options.draft + ": use ngram");
  if (!options.draft.empty() && options.draft_model != nullptr)
    throw UsageError("--draft and --draft-model: give one of both");
  if (!options.draft.empty()) return make_ngram_drafter();
  if (options.draft_model == nullptr) return nullptr;
  const std::shared_ptr<State>& draft = options.draft_model->state_;
  if (draft.get() == this) throw UsageError("--draft-model: the model cannot draft for itself");
  if (draft->tokenizer().decode(prompt) != tokenizer().decode(prompt))
    throw Error(draft->checkpoint->path().string() + ": as a draft model it must have the tokenizer of " +
                checkpoint->path().string());
  return make_model_drafter(draft, model->info().vocab_size);
}

Tensor prefill(Model& model, Cache& cache, std::span<const int32_t> tokens, int64_t rows) {
  Tensor logits;
  while (!tokens.empty()) {
    check_interrupt();
    const auto size = static_cast<int64_t>(tokens.size());
    const int64_t count = size > kPrefillTokens ? std::min(kPrefillTokens, size - rows) : size;
    const SequenceTokens sequence{&cache, tokens.first(static_cast<size_t>(count)),
                                  count == size ? count - rows : count};
    tokens = tokens.subspan(static_cast<size_t>(count));
    logits = model.forward({&sequence, 1});
  }
  return logits;
}

LanguageModel::LanguageModel(std::shared_ptr<State> state) : state_(std::move(state)) {}
LanguageModel::~LanguageModel() = default;
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&&) noexcept = default;

LanguageModel LanguageModel::load(const std::string& path, const LoadOptions& options) {
  auto state = std::make_shared<State>();
  state->kv = options.kv;
  state->options.exact = options.exact;
  state->options.qjl = options.qjl;
  state->options.cache = cache_options(options.kv);
  state->checkpoint = open_model(path, options.revision, options.on_message);
  if (options.on_message && !state->checkpoint->note().empty()) options.on_message(state->checkpoint->note());
  if (!options.qjl && options.on_message) options.on_message(left_out_qjl(*state->checkpoint));
  state->pool = make_thread_pool(options.threads);
  std::shared_ptr<Ops> ops = make_cpu_ops(state->pool);
  state->options.repack = options.repack && !options.exact && !options.lock;
  if (options.preload || options.lock)
    load_into_memory(*state->checkpoint, options.lock, !(state->options.repack && ops->repacks()));
  if (options.profile) {
    state->profile = std::make_shared<Profile>();
    ops = make_profiling_ops(ops, state->profile);
  }
  state->model = load_model(*state->checkpoint, ops, state->options);
  const Checkpoint& checkpoint = *state->checkpoint;
  state->chat = chat_template_of([&](std::string_view name) { return checkpoint.file(name); });
  const nlohmann::json config = text_config(checkpoint.config(), path);
  add_end_tokens(config, state->end_tokens);
  if (const auto begin = config.find("bos_token_id"); begin != config.end() && begin->is_number_integer())
    state->begin_token = begin->get<int32_t>();
  if (const auto text = checkpoint.file("generation_config.json"))
    add_end_tokens(nlohmann::json::parse(*text, nullptr, false), state->end_tokens);
  return LanguageModel(std::move(state));
}

std::vector<int32_t> LanguageModel::encode(std::string_view text, bool add_special) const {
  return state_->tokenizer().encode(text, add_special);
}
std::string LanguageModel::decode(const std::vector<int32_t>& tokens, bool skip_special) const {
  return state_->tokenizer().decode(tokens, skip_special);
}
std::string LanguageModel::chat_template() const { return state_->chat ? state_->chat->source() : std::string(); }
std::string LanguageModel::apply_chat_template(std::string_view messages, bool add_generation_prompt) const {
  if (!state_->chat) throw Error(state_->checkpoint->path().string() + ": the model has no chat template");
  return state_->chat->render_json(messages, "{}", add_generation_prompt);
}
std::optional<int32_t> LanguageModel::begin_token() const { return state_->begin_token; }
std::vector<int32_t> LanguageModel::end_tokens() const {
  std::vector<int32_t> tokens(state_->end_tokens.begin(), state_->end_tokens.end());
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}
int64_t LanguageModel::vocab_size() const { return state_->model->info().vocab_size; }
int64_t LanguageModel::max_context() const { return state_->model->info().max_context; }

KvCache LanguageModel::make_cache() const { return make_cache(state_->kv); }
KvCache LanguageModel::make_cache(const KvCacheOptions& options) const {
  return KvCache(std::make_unique<KvCache::State>(state_, options));
}
KvCache LanguageModel::load_cache(const std::string& path) const {
  KvCache cache = make_cache();
  turboquant::load_cache(path, cache.state());
  return cache;
}

std::vector<float> LanguageModel::forward(KvCache& cache, const std::vector<int32_t>& tokens) {
  return forward(cache, tokens, 1);
}

std::vector<float> LanguageModel::forward(KvCache& cache, std::span<const int32_t> tokens, int64_t rows) {
  KvCache::State& state = cache.state();
  if (state.model != state_) throw Error("the cache is of another model");
  const auto size = static_cast<int64_t>(tokens.size());
  if (size == 0) throw UsageError("no tokens to read");
  if (rows < 1 || rows > size) throw UsageError(fmt::format("rows {}: must be 1 to {}, the tokens", rows, size));
  if (state.cache.length() + size > max_context())
    throw Error(fmt::format("the text is longer than the model's context of {} tokens", max_context()));
  std::vector<float> logits;
  logits.reserve(static_cast<size_t>(rows * vocab_size()));
  for (int64_t begin = 0; begin < size;) {
    int64_t end = std::min(begin + kPrefillTokens, size);
    // The logits of a piece are those of one side of a compression.
    if (state.to_be_compressed() && state.options.start > state.cache.length())
      end = std::min(end, begin + state.options.start - state.cache.length());
    const int64_t wanted = std::clamp<int64_t>(end - (size - rows), 0, end - begin);
    const Tensor part =
        state.read(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), wanted);
    if (wanted > 0) logits.insert(logits.end(), part.data<float>(), part.data<float>() + part.elements());
    begin = end;
  }
  return logits;
}

GenerateResult LanguageModel::generate(std::string_view prompt, const GenerateOptions& options,
                                       const std::function<bool(std::string_view)>& on_text) {
  return state_->generate(state_->prompt_tokens(prompt, options), options, on_text);
}
GenerateResult LanguageModel::generate(std::span<const ChatMessage> messages, const GenerateOptions& options,
                                       const std::function<bool(std::string_view)>& on_text) {
  return state_->generate(state_->prompt_tokens(messages), options, on_text);
}
GenerateResult LanguageModel::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                                       const std::function<bool(std::string_view)>& on_text) {
  return state_->generate({prompt.begin(), prompt.end()}, options, on_text);
}

GenerateResult LanguageModel::State::generate(std::vector<int32_t> history, const GenerateOptions& options,
                                              const std::function<bool(std::string_view)>& on_text) {
  if (options.max_tokens < 1)
    throw UsageError("--max-tokens " + std::to_string(options.max_tokens) + ": must be 1 or more");
  Sampler sampler(options);
  if (options.draft_max < 1 || options.draft_max > kMostDrafts)
    throw UsageError(fmt::format("--draft-max {}: must be 1 to {}", options.draft_max, kMostDrafts));
  if (history.empty()) throw UsageError("the prompt has no tokens; give some text to continue");
  const auto prompt_length = static_cast<int64_t>(history.size());
  if (prompt_length >= model->info().max_context)
    throw Error("the prompt has " + std::to_string(prompt_length) + " tokens; the model's context is " +
                std::to_string(model->info().max_context) + ": shorten the prompt");
  GenerateResult result;
  result.prompt_tokens = prompt_length;
  result.finish_reason = "length";
  std::optional<KvCache> own;
  const std::shared_ptr<State> self = shared_from_this();
  if (options.cache == nullptr) own.emplace(std::make_unique<KvCache::State>(self, kv));
  KvCache::State& cache = (options.cache != nullptr ? *options.cache : *own).state();
  if (cache.model != self) throw Error("the cache is of another model");
  StreamingDetokenizer detokenizer(tokenizer());
  StopStrings stop(options.stop);
  bool wanted = true;
  const auto emit = [&](const std::string& piece) {
    if (!wanted) return;
    result.text += piece;
    wanted = piece.empty() || !on_text || on_text(piece);
  };

  if (profile) profile->clear();
  auto start = Clock::now();
  result.cached_tokens = cache.keep_common(history);
  const std::span<const int32_t> prompt_rest = std::span(history).subspan(static_cast<size_t>(result.cached_tokens));
  cache.read(prompt_rest.first(prompt_rest.size() - 1));
  if (options.on_prompt) options.on_prompt();
  Tensor logits = cache.read(prompt_rest.last(1));
  if (cache.to_be_compressed() && cache.options.start == KvCacheOptions::kAfterPrompt)
    logits = cache.compress_behind(logits);
  Speculation speculation(cache, drafter(options, history), options.draft_max);
  std::span<const float> next(logits.data<float>(), static_cast<size_t>(logits.elements()));
  while (true) {
    const int32_t token = sampler.sample(next, history, static_cast<size_t>(prompt_length));
    if (result.tokens.empty() && result.prefill_seconds == 0) {
      if (profile) prompt_profile = std::exchange(*profile, {});
      result.prefill_seconds = seconds_since(start);
      start = Clock::now();
    }
    if (end_tokens.contains(token)) {
      result.finish_reason = "stop";
      break;
    }
    result.tokens.push_back(token);
    history.push_back(token);
    emit(stop.add(detokenizer.add(token)));
    if (stop.found()) {
      result.finish_reason = "stop";
      break;
    }
    if (!wanted || interrupted()) {
      result.finish_reason = "cancelled";
      break;
    }
    const int64_t more = std::min(options.max_tokens - static_cast<int64_t>(result.tokens.size()),
                                  model->info().max_context - static_cast<int64_t>(history.size()));
    if (more <= 0) break;
    next = speculation.next(history, more - 1);
  }
  result.decode_seconds = seconds_since(start);
  result.drafted_tokens = speculation.drafted();
  result.accepted_tokens = speculation.accepted();
  if (options.cache != nullptr) speculation.finish(history);
  if (!stop.found()) {
    emit(stop.add(detokenizer.finish()));
    emit(stop.finish());
  }
  result.cache_bytes = cache.cache.bytes();
  return result;
}

}  // namespace turboquant
