// A grammar as the engine's constraint.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "generate/engine.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace turboquant {

/// ApiError 400 that names `param` if the grammar cannot be understood.
std::unique_ptr<TokenConstraint> make_constraint(const GrammarVocabulary& vocabulary, Grammar::Kind kind,
                                                 std::string_view text, const std::string& param);

/// From the end of the thoughts on, which the prompt has begun.
std::unique_ptr<TokenConstraint> behind_thoughts(std::unique_ptr<TokenConstraint> constraint,
                                                 const Tokenizer& tokenizer);

}  // namespace turboquant
