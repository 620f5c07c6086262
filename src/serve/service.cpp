#include "serve/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "models/summary.h"
#include "serve/api_error.h"

namespace turboquant {

Service::Service(LanguageModel& model, Engine& engine, ServiceOptions options)
    : model_(model),
      engine_(engine),
      options_(std::move(options)),
      tokenizer_(model.state().tokenizer()),
      chat_(model.state().chat ? &*model.state().chat : nullptr),
      format_(chat_ == nullptr ? ChatFormat() : chat_format_of(chat_->source())),
      vocab_size_(model.vocab_size()),
      max_context_(model.max_context()),
      created_(unix_time()),
      parameters_(static_cast<int64_t>(summarize(*model.state().checkpoint).all.weights)) {}

void Service::message(const std::string& line) const {
  if (options_.on_message) options_.on_message(line);
}

const GrammarVocabulary& Service::grammar_vocabulary() {
  std::call_once(grammar_once_, [this] {
    const auto& ends = model_.state().end_tokens;
    const std::vector<int32_t> list(ends.begin(), ends.end());
    grammar_ = std::make_unique<GrammarVocabulary>(tokenizer_, vocab_size_, list);
  });
  return *grammar_;
}

void Service::check_model(const std::optional<std::string>& name) const {
  if (!name || name->empty() || *name == options_.model_name || *name == "default_model") return;
  throw ApiError(404, "this server has only the model " + options_.model_name, "model", "model_not_found");
}

int Service::answer_length(size_t prompt_tokens, std::optional<int64_t> wanted, int64_t usual) const {
  if (prompt_tokens == 0) throw bad_request("the prompt is empty");
  const int64_t room = max_context_ - static_cast<int64_t>(prompt_tokens);
  if (room <= 0)
    throw bad_request(
        fmt::format("the prompt has {} tokens, and the model's context is {}", prompt_tokens, max_context_), "",
        "context_length_exceeded");
  int64_t length = wanted.value_or(usual < 0 ? room : usual);
  if (options_.most_tokens >= 0) length = std::min(length, options_.most_tokens);
  return static_cast<int>(std::min(length, room));
}

std::string new_id(const std::string& prefix) {
  constexpr std::string_view kLetters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::uniform_int_distribution<size_t> letter(0, kLetters.size() - 1);
  std::string id = prefix;
  for (int i = 0; i < 24; ++i) id += kLetters[letter(random)];
  return id;
}

int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace turboquant
