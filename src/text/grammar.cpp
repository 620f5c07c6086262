#include "text/grammar.h"

#include "rust/tq_grammar.h"
#include "text/rust_text.h"

namespace turboquant {

struct GrammarVocabulary::Handle {
  TqVocabulary* rust = nullptr;

  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { tq_vocabulary_free(rust); }
};

GrammarVocabulary::GrammarVocabulary(const Tokenizer& tokenizer, int64_t size, std::span<const int32_t> end_tokens)
    : handle_(std::make_unique<Handle>()) {
  TqText error{};
  check(tq_vocabulary_new(tokenizer.handle_->rust, static_cast<size_t>(size), end_tokens.data(), end_tokens.size(),
                          &handle_->rust, &error),
        error, "the tokenizer cannot be used with grammars");
}

GrammarVocabulary::~GrammarVocabulary() = default;

struct Grammar::Handle {
  TqGrammar* rust = nullptr;

  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { tq_grammar_free(rust); }
};

Grammar::Grammar(const GrammarVocabulary& vocabulary, Kind kind, std::string_view text)
    : handle_(std::make_unique<Handle>()) {
  const char* what = kind == Kind::json_schema ? "JSON schema" : kind == Kind::regex ? "regular expression" : "grammar";
  TqText error{};
  check(tq_grammar_new(vocabulary.handle_->rust, static_cast<int>(kind), text.data(), text.size(), &handle_->rust,
                       &error),
        error, what);
}

Grammar::~Grammar() = default;

void Grammar::mask(std::span<float> logits) {
  TqText error{};
  check(tq_grammar_mask(handle_->rust, logits.data(), logits.size(), &error), error, "grammar");
}

void Grammar::accept(int32_t token) {
  TqText error{};
  check(tq_grammar_accept(handle_->rust, token, &error), error, "grammar");
}

bool Grammar::finished() const { return tq_grammar_finished(handle_->rust) != 0; }

}  // namespace turboquant
