#include "turboquant/language_model.h"

#include <algorithm>
#include <chrono>

#include "core/interrupt.h"
#include "generate/sampler.h"
#include "generate/state.h"
#include "generate/stop.h"
#include "hub/hub.h"
#include "io/config.h"

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

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Tokenizer load_tokenizer(const Checkpoint& checkpoint) {
  const std::optional<std::string> json = checkpoint.file("tokenizer.json");
  if (!json) throw Error(checkpoint.path().string() + ": no tokenizer.json; copy it from the original model's folder");
  return Tokenizer(*json, (checkpoint.path() / "tokenizer.json").string());
}

const Tokenizer& LanguageModel::State::tokenizer() {
  if (!loaded_tokenizer) loaded_tokenizer = std::make_unique<Tokenizer>(load_tokenizer(*checkpoint));
  return *loaded_tokenizer;
}

std::vector<int32_t> LanguageModel::State::prompt_tokens(std::string_view prompt, const GenerateOptions& options) {
  if (prompt.empty()) throw UsageError("the prompt is empty; give some text to continue");
  if (options.raw || !chat) return tokenizer().encode(prompt);
  std::vector<ChatMessage> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  messages.push_back({"user", std::string(prompt)});
  return tokenizer().encode(chat->render(messages), false);
}

CacheOptions cache_options(const std::string& kv_bits, int kv_keep_layers, DType dtype) {
  if (kv_keep_layers < 0)
    throw UsageError("--kv-keep-layers " + std::to_string(kv_keep_layers) + ": must be 0 or more");
  const CacheOptions options{dtype, parse_kv_bits(kv_bits), kv_keep_layers};
  if (options.kv_bits.compressed() && dtype != DType::f16)
    throw UsageError("--kv-bits " + kv_bits + ": a compressed cache keeps its newest tokens in float16; leave out " +
                     "--cache-dtype");
  return options;
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

LanguageModel::LanguageModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
LanguageModel::~LanguageModel() = default;
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&&) noexcept = default;

LanguageModel LanguageModel::load(const std::string& path, const LoadOptions& options) {
  ModelOptions model_options;
  model_options.exact = options.exact;
  model_options.qjl = options.qjl;
  if (options.cache_dtype != "float16" && options.cache_dtype != "float32")
    throw UsageError("--cache-dtype " + options.cache_dtype + ": use float16 or float32");
  model_options.cache = cache_options(options.kv_bits, options.kv_keep_layers,
                                      options.cache_dtype == "float32" ? DType::f32 : DType::f16);
  auto state = std::make_unique<State>();
  state->checkpoint = open_model(path, options.revision, options.on_message);
  if (options.on_message && !state->checkpoint->note().empty()) options.on_message(state->checkpoint->note());
  if (!options.qjl && options.on_message) options.on_message(left_out_qjl(*state->checkpoint));
  if (options.preload || options.lock) load_into_memory(*state->checkpoint, options.lock);
  state->pool = std::make_shared<ThreadPool>(options.threads);
  state->model = load_model(*state->checkpoint, make_cpu_ops(state->pool), model_options);
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
  Cache cache = model.make_cache();
  StreamingDetokenizer detokenizer(state_->tokenizer());
  StopStrings stop(options.stop);
  bool wanted = true;
  const auto emit = [&](const std::string& piece) {
    if (!wanted) return;
    result.text += piece;
    wanted = piece.empty() || !on_text || on_text(piece);
  };

  auto start = std::chrono::steady_clock::now();
  Tensor logits = prefill(model, cache, history);
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
    logits = prefill(model, cache, {&token, 1});
  }
  result.decode_seconds = seconds_since(start);
  if (!stop.found()) {
    emit(stop.add(detokenizer.finish()));
    emit(stop.finish());
  }
  result.cache_bytes = cache.bytes();
  return result;
}

}  // namespace turboquant
