#include "cli/chat_session.h"

#include <array>
#include <utility>

#include "io/files.h"

namespace turboquant {
namespace {

ChatMessage message_of(const nlohmann::json& entry, const std::string& path, size_t number) {
  const auto fail = [&](const std::string& what) {
    return Error(path + ": message " + std::to_string(number) + " " + what + "; a saved chat is expected");
  };
  if (!entry.is_object()) throw fail("is not an object");
  const auto text = [&](const char* key) {
    const auto found = entry.find(key);
    if (found == entry.end() || !found->is_string()) throw fail(std::string("has no text as \"") + key + "\"");
    return found->get<std::string>();
  };
  ChatMessage message{text("role"), text("content")};
  constexpr std::array<std::string_view, 3> kRoles{"system", "user", "assistant"};
  if (std::find(kRoles.begin(), kRoles.end(), message.role) == kRoles.end())
    throw fail("has the role " + quote(message.role) + "; known are system, user and assistant");
  return message;
}

}  // namespace

ChatSession::ChatSession(LanguageModel& model, GenerateOptions options)
    : model_(model), options_(std::move(options)), cache_(model.make_cache()) {
  options_.cache = &cache_;
  set_system(options_.system);
}

GenerateResult ChatSession::answer(const OnText& on_text) {
  GenerateOptions options = options_;
  if (options.seed) *options.seed += answers_;  // another answer to the same message is another one
  GenerateResult result = model_.generate(messages_, options, on_text);
  ++answers_;
  messages_.push_back({"assistant", result.text});
  return result;
}

GenerateResult ChatSession::send(std::string text, const OnText& on_text) {
  messages_.push_back({"user", std::move(text)});
  try {
    return answer(on_text);
  } catch (...) {
    messages_.pop_back();
    throw;
  }
}

GenerateResult ChatSession::again(const OnText& on_text) {
  if (messages_.empty() || messages_.back().role == "system") throw Error("there is no message to answer yet");
  if (messages_.back().role == "user") return answer(on_text);
  ChatMessage old = std::move(messages_.back());
  messages_.pop_back();
  try {
    return answer(on_text);
  } catch (...) {
    messages_.push_back(std::move(old));
    throw;
  }
}

bool ChatSession::undo() {
  const auto end = std::find_if(messages_.rbegin(), messages_.rend(),
                                [](const ChatMessage& message) { return message.role == "user"; });
  if (end == messages_.rend()) return false;
  messages_.erase(end.base() - 1, messages_.end());
  return true;
}

void ChatSession::clear() { messages_.resize(has_system() ? 1 : 0); }

void ChatSession::set_system(const std::string& text) {
  if (has_system()) messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), {"system", text});
}

void ChatSession::save(const std::string& path) const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages_) list.push_back({{"role", message.role}, {"content", message.content}});
  write_text(path, nlohmann::ordered_json{{"messages", list}}.dump(2) + "\n");
}

void ChatSession::load(const std::string& path) {
  const nlohmann::json file = read_json(path);
  const auto list = file.find("messages");
  if (list == file.end() || !list->is_array()) throw Error(path + ": no list \"messages\"; a saved chat is expected");
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& entry : *list) messages.push_back(message_of(entry, path, messages.size() + 1));
  messages_ = std::move(messages);
}

}  // namespace turboquant
