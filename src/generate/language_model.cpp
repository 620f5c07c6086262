#include "turboquant/language_model.h"

#include <algorithm>
#include <chrono>

#include "core/interrupt.h"
#include "generate/cache_file.h"
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

// Forgets what is not the beginning of `prompt`, and its last token, whose logits are wanted. Returns what is left.
int64_t keep_common(KvCache::State& cache, const std::vector<int32_t>& prompt) {
  const auto most = prompt.end() - 1;
  const auto end = std::mismatch(prompt.begin(), most, cache.tokens.begin(), cache.tokens.end()).first;
  const int64_t left = cache.cache.trim(end - prompt.begin());
  cache.tokens.resize(static_cast<size_t>(left));
  return left;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

const Tokenizer& LanguageModel::State::tokenizer() {
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
  return tokenizer().encode(chat->render(messages), false);
}

Tensor prefill(Model& model, Cache& cache, std::span<const int32_t> tokens) {
  Tensor logits;
  while (!tokens.empty()) {
    check_interrupt();
    const auto chunk = tokens.first(std::min(tokens.size(), static_cast<size_t>(kPrefillTokens)));
    tokens = tokens.subspan(chunk.size());
    const auto count = static_cast<int64_t>(chunk.size());
    const SequenceTokens sequence{&cache, chunk, tokens.empty() ? count - 1 : count};
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
  if (options.preload || options.lock) load_into_memory(*state->checkpoint, options.lock);
  state->pool = std::make_shared<ThreadPool>(options.threads);
  state->model = load_model(*state->checkpoint, make_cpu_ops(state->pool), state->options);
  const Checkpoint& checkpoint = *state->checkpoint;
  state->chat = chat_template_of([&](std::string_view name) { return checkpoint.file(name); });
  add_end_tokens(text_config(checkpoint.config(), path), state->end_tokens);
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
bool LanguageModel::has_chat_template() const { return state_->chat.has_value(); }
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
  if (cache.state().model != state_) throw Error("the cache is of another model");
  if (tokens.empty()) throw UsageError("no tokens to read");
  const Tensor logits = cache.state().read(tokens);
  return {logits.data<float>(), logits.data<float>() + logits.elements()};
}

GenerateResult LanguageModel::generate(std::string_view prompt, const GenerateOptions& options,
                                       const std::function<bool(std::string_view)>& on_text) {
  if (options.max_tokens < 1)
    throw UsageError("--max-tokens " + std::to_string(options.max_tokens) + ": must be 1 or more");
  Sampler sampler(options);
  Model& model = *state_->model;
  std::vector<int32_t> history = state_->prompt_tokens(prompt, options);
  if (history.empty()) throw UsageError("the prompt has no tokens; give some text to continue");
  const auto prompt_length = static_cast<int64_t>(history.size());
  if (prompt_length >= model.info().max_context)
    throw Error("the prompt has " + std::to_string(prompt_length) + " tokens; the model's context is " +
                std::to_string(model.info().max_context) + ": shorten the prompt");
  GenerateResult result;
  result.prompt_tokens = prompt_length;
  result.finish_reason = "length";
  std::optional<KvCache> own;
  if (options.cache == nullptr) own = make_cache();
  KvCache::State& cache = (options.cache != nullptr ? *options.cache : *own).state();
  if (cache.model != state_) throw Error("the cache is of another model");
  StreamingDetokenizer detokenizer(state_->tokenizer());
  StopStrings stop(options.stop);
  bool wanted = true;
  const auto emit = [&](const std::string& piece) {
    if (!wanted) return;
    result.text += piece;
    wanted = piece.empty() || !on_text || on_text(piece);
  };

  auto start = std::chrono::steady_clock::now();
  result.cached_tokens = keep_common(cache, history);
  const std::span<const int32_t> prompt_rest = std::span(history).subspan(static_cast<size_t>(result.cached_tokens));
  cache.read(prompt_rest.first(prompt_rest.size() - 1));
  if (options.on_prompt) options.on_prompt();
  Tensor logits = cache.read(prompt_rest.last(1));
  if (cache.to_be_compressed() && cache.options.start == KvCacheOptions::kAfterPrompt)
    logits = cache.compress_behind(logits);
  while (true) {
    const int32_t token = sampler.sample({logits.data<float>(), static_cast<size_t>(logits.elements())}, history);
    if (result.tokens.empty() && result.prefill_seconds == 0) {
      result.prefill_seconds = seconds_since(start);
      start = std::chrono::steady_clock::now();
    }
    if (state_->end_tokens.contains(token)) {
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
    if (static_cast<int>(result.tokens.size()) >= options.max_tokens ||
        static_cast<int64_t>(history.size()) >= model.info().max_context)
      break;
    logits = cache.read({&token, 1});
  }
  result.decode_seconds = seconds_since(start);
  if (!stop.found()) {
    emit(stop.add(detokenizer.finish()));
    emit(stop.finish());
  }
  result.cache_bytes = cache.cache.bytes();
  return result;
}

}  // namespace turboquant
