#include "text/tokenizer.h"

#include <nlohmann/json.hpp>

#include "text/rust_text.h"

namespace turboquant {

Tokenizer::Tokenizer(std::string_view tokenizer_json, const std::string& name)
    : handle_(std::make_unique<Handle>(name)) {
  TqText error{};
  if (tq_tokenizer_new(tokenizer_json.data(), tokenizer_json.size(), &handle_->rust, &error) != 0) {
    throw Error(
        fmt::format("{}: not a tokenizer that can be read ({}); use the tokenizer.json that belongs to the model", name,
                    take(error)));
  }
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  TqIds ids{};
  TqText error{};
  check(tq_tokenizer_encode(handle_->rust, text.data(), text.size(), add_special, &ids, &error), error,
        "cannot tokenize");
  std::vector<int32_t> result(ids.data, ids.data + ids.size);
  tq_ids_free(ids);
  return result;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  TqText text{};
  TqText error{};
  check(tq_tokenizer_decode(handle_->rust, ids.data(), ids.size(), skip_special, &text, &error), error,
        "cannot decode token ids");
  return take(text);
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  int32_t id = -1;
  TqText error{};
  check(tq_tokenizer_token_to_id(handle_->rust, token.data(), token.size(), &id, &error), error, handle_->name);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<std::string> Tokenizer::id_to_token(int32_t id) const {
  int found = 0;
  TqText token{};
  TqText error{};
  check(tq_tokenizer_id_to_token(handle_->rust, id, &found, &token, &error), error, handle_->name);
  std::string spelling = take(token);
  return found != 0 ? std::optional(std::move(spelling)) : std::nullopt;
}

std::string Tokenizer::token_bytes(int32_t id) const {
  TqText bytes{};
  TqText error{};
  check(tq_tokenizer_token_bytes(handle_->rust, id, &bytes, &error), error, handle_->name);
  return take(bytes);
}

int64_t Tokenizer::vocab_size() const {
  int64_t size = 0;
  TqText error{};
  check(tq_tokenizer_vocab_size(handle_->rust, &size, &error), error, handle_->name);
  return size;
}

struct StreamingDetokenizer::State {
  TqStream* rust = nullptr;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { tq_stream_free(rust); }
};

StreamingDetokenizer::StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special)
    : state_(std::make_unique<State>()) {
  TqText error{};
  check(tq_stream_new(tokenizer.handle_->rust, skip_special, &state_->rust, &error), error, tokenizer.handle_->name);
}

StreamingDetokenizer::~StreamingDetokenizer() = default;
StreamingDetokenizer::StreamingDetokenizer(StreamingDetokenizer&&) noexcept = default;
StreamingDetokenizer& StreamingDetokenizer::operator=(StreamingDetokenizer&&) noexcept = default;

std::string StreamingDetokenizer::add(int32_t id) {
  TqText piece{};
  TqText error{};
  check(tq_stream_add(state_->rust, id, &piece, &error), error, "cannot decode token ids");
  return take(piece);
}

std::string StreamingDetokenizer::finish() {
  TqText piece{};
  TqText error{};
  check(tq_stream_finish(state_->rust, &piece, &error), error, "cannot decode token ids");
  return take(piece);
}

struct ChatTemplate::Compiled {
  TqTemplate* rust = nullptr;

  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { tq_template_free(rust); }
};

ChatTemplate::ChatTemplate(std::string source, std::string bos_token, std::string eos_token)
    : source_(std::move(source)), bos_token_(std::move(bos_token)), eos_token_(std::move(eos_token)) {
  auto compiled = std::make_shared<Compiled>();
  TqText error{};
  check(tq_template_new(source_.data(), source_.size(), &compiled->rust, &error), error, "chat template");
  compiled_ = std::move(compiled);
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, bool add_generation_prompt) const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages) list.push_back({{"role", message.role}, {"content", message.content}});
  std::string text;
  try {
    text = list.dump();
  } catch (const nlohmann::json::exception&) {
    throw Error("chat template: a message is not valid UTF-8");
  }
  return render_json(text, "{}", add_generation_prompt);
}

std::string ChatTemplate::render_json(std::string_view messages, std::string_view variables,
                                      bool add_generation_prompt) const {
  TqText text{};
  TqText error{};
  check(tq_template_render(compiled_->rust, messages.data(), messages.size(), variables.data(), variables.size(),
                           bos_token_.data(), bos_token_.size(), eos_token_.data(), eos_token_.size(),
                           add_generation_prompt, &text, &error),
        error, "chat template");
  return take(text);
}

}  // namespace turboquant
