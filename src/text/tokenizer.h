// Tokenizer (Hugging Face's own, behind a C ABI), chat template (minijinja), streaming detokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "turboquant/chat_message.h"

namespace turboquant {

class Tokenizer {
 public:
  /// `tokenizer_json` is the text of tokenizer.json; `name` is used in errors. Throws Error if it is not a tokenizer.
  /// Truncation and padding that the file asks for are ignored, as transformers does. All const members may run on
  /// several threads at once.
  Tokenizer(std::string_view tokenizer_json, const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Token ids of UTF-8 text; special tokens in the text are recognized; with `add_special` the post-processor adds
  /// its begin and end tokens. Invalid UTF-8 is an Error.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true) const;
  /// Ids without a token are skipped; a negative id is an Error.
  std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  /// The token's own spelling in the vocabulary, or nothing.
  std::optional<std::string> id_to_token(int32_t id) const;
  /// The bytes that a token stands for in the middle of a text, not always whole characters; of a special token its
  /// name, of an unknown id nothing.
  std::string token_bytes(int32_t id) const;
  /// Number of ids, added tokens included.
  int64_t vocab_size() const;

 private:
  friend class StreamingDetokenizer;
  friend class GrammarVocabulary;
  struct Handle;
  std::unique_ptr<Handle> handle_;
};

/// Turns ids into text as they come, and never gives out half of a UTF-8 character.
class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special = true);
  ~StreamingDetokenizer();
  StreamingDetokenizer(StreamingDetokenizer&&) noexcept;
  StreamingDetokenizer& operator=(StreamingDetokenizer&&) noexcept;

  /// The text that this id completes; empty while a character is unfinished. With byte fallback (<0xNN> tokens) the
  /// text of such tokens in a row comes when the row ends: one wrong byte would turn all of them into U+FFFD.
  std::string add(int32_t id);
  /// What is left at the end (an unfinished character becomes U+FFFD, as in decode()). All pieces together equal
  /// decode() of all ids.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A chat template as transformers renders it: Jinja with trim_blocks and lstrip_blocks, Python string and list
/// methods, raise_exception, strftime_now, tojson.
class ChatTemplate {
 public:
  /// `source` is the template's text. bos_token and eos_token are what the template calls by these names. Throws Error
  /// with the line if the template cannot be parsed.
  ChatTemplate(std::string source, std::string bos_token, std::string eos_token);
  /// Throws Error with the template's own message if it raises one.
  std::string render(std::span<const ChatMessage> messages, bool add_generation_prompt = true) const;
  /// The same from JSON: `messages` is an array of objects, `variables` an object of more template variables (tools,
  /// documents, enable_thinking), both as JSON text. The order of keys is kept. As in transformers, tools and documents
  /// are none if not given, and members of a message that are null count as missing. May run on several threads at
  /// once.
  std::string render_json(std::string_view messages, std::string_view variables,
                          bool add_generation_prompt = true) const;

  const std::string& source() const { return source_; }
  const std::string& bos_token() const { return bos_token_; }
  const std::string& eos_token() const { return eos_token_; }

 private:
  struct Compiled;
  std::string source_, bos_token_, eos_token_;
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace turboquant
