// Which tokens may come next, so that a text keeps to a JSON schema, a regular expression or a grammar.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "text/tokenizer.h"

namespace turboquant {

/// The tokens of a model, arranged for grammars: made once (a tenth of a second), shared by all of them.
class GrammarVocabulary {
 public:
  /// `size`: of the model's logits. `end_tokens`: any of them ends a text.
  GrammarVocabulary(const Tokenizer& tokenizer, int64_t size, std::span<const int32_t> end_tokens);
  ~GrammarVocabulary();
  GrammarVocabulary(const GrammarVocabulary&) = delete;
  GrammarVocabulary& operator=(const GrammarVocabulary&) = delete;

 private:
  friend class Grammar;
  struct Handle;
  std::unique_ptr<Handle> handle_;
};

/// The state of one text. One thread at a time; several may share a vocabulary.
class Grammar {
 public:
  enum class Kind { json_schema, regex, lark };
  /// JSON comes in one line, unless the schema's "x-guidance" says otherwise. A regular expression is of the whole
  /// text; lark: llguidance's variant. Error: what of it cannot be understood, or is not supported.
  Grammar(const GrammarVocabulary& vocabulary, Kind kind, std::string_view text);
  ~Grammar();
  Grammar(const Grammar&) = delete;
  Grammar& operator=(const Grammar&) = delete;

  /// Sets the logits of tokens that may not come to -infinity; end tokens may come where the text may end.
  void mask(std::span<float> logits);
  /// The token that was chosen, no end token. Error: it may not come.
  void accept(int32_t token);
  /// Nothing may come any more but the end.
  bool finished() const;

 private:
  struct Handle;
  std::unique_ptr<Handle> handle_;
};

}  // namespace turboquant
