// A conversation with a model: its messages, and the cache that goes on from answer to answer.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "turboquant/language_model.h"

namespace turboquant {

class ChatSession {
 public:
  using OnText = std::function<bool(std::string_view)>;

  /// `options.system` begins the conversation.
  ChatSession(LanguageModel& model, GenerateOptions options);

  /// Answers a message. If that throws, the conversation is what it was before.
  GenerateResult send(std::string text, const OnText& on_text);
  /// Answers the last message again; the same holds. Error: there is none.
  GenerateResult again(const OnText& on_text);
  /// Takes the last message and its answer back. False: there is none.
  bool undo();
  /// All messages but the system's.
  void clear();
  /// Empty: none.
  void set_system(const std::string& text);

  /// As JSON: {"messages": [{"role": "user", "content": "..."}, ...]}. Error: it cannot be written.
  void save(const std::string& path) const;
  /// Instead of what is here. Error: not such a file; the conversation is then what it was.
  void load(const std::string& path);

  const std::vector<ChatMessage>& messages() const { return messages_; }
  /// Tokens of the conversation that the model remembers, and the bytes that takes.
  int64_t cached_tokens() const { return static_cast<int64_t>(cache_.tokens().size()); }
  uint64_t cache_bytes() const { return cache_.bytes(); }

 private:
  GenerateResult answer(const OnText& on_text);
  bool has_system() const { return !messages_.empty() && messages_.front().role == "system"; }

  LanguageModel& model_;
  GenerateOptions options_;
  KvCache cache_;
  std::vector<ChatMessage> messages_;
  uint64_t answers_ = 0;
};

}  // namespace turboquant
