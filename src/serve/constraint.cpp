#include "serve/constraint.h"

#include <utility>

#include "serve/api_error.h"

namespace turboquant {
namespace {

class GrammarConstraint final : public TokenConstraint {
 public:
  GrammarConstraint(const GrammarVocabulary& vocabulary, Grammar::Kind kind, std::string_view text)
      : grammar_(vocabulary, kind, text) {}
  void mask(std::span<float> logits) override { grammar_.mask(logits); }
  void accept(int32_t token) override { grammar_.accept(token); }
  bool finished() const override { return grammar_.finished(); }

 private:
  Grammar grammar_;
};

class BehindThoughts final : public TokenConstraint {
 public:
  BehindThoughts(std::unique_ptr<TokenConstraint> constraint, const Tokenizer& tokenizer)
      : constraint_(std::move(constraint)), tokenizer_(tokenizer) {}
  void mask(std::span<float> logits) override {
    if (ended_) constraint_->mask(logits);
  }
  void accept(int32_t token) override {
    if (ended_) {
      constraint_->accept(token);
      return;
    }
    constexpr std::string_view kEnd = "</think>";
    tail_ += tokenizer_.token_bytes(token);
    ended_ = tail_.find(kEnd) != std::string::npos;
    if (tail_.size() > kEnd.size()) tail_.erase(0, tail_.size() - kEnd.size());
  }
  bool finished() const override { return ended_ && constraint_->finished(); }

 private:
  std::unique_ptr<TokenConstraint> constraint_;
  const Tokenizer& tokenizer_;
  std::string tail_;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<TokenConstraint> make_constraint(const GrammarVocabulary& vocabulary, Grammar::Kind kind,
                                                 std::string_view text, const std::string& param) {
  try {
    return std::make_unique<GrammarConstraint>(vocabulary, kind, text);
  } catch (const Error& error) {
    throw bad_request(error.what(), param);
  }
}

std::unique_ptr<TokenConstraint> behind_thoughts(std::unique_ptr<TokenConstraint> constraint,
                                                 const Tokenizer& tokenizer) {
  return std::make_unique<BehindThoughts>(std::move(constraint), tokenizer);
}

}  // namespace turboquant
