// Passkey retrieval: the texts in which a key is hidden, and what an answer is worth. find_needles() is public
// (turboquant/evaluate.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace turboquant {

/// Digits of a key.
inline constexpr size_t kNeedleDigits = 5;

/// A text of so many sentences of no meaning; the sentence with the key stands behind `before` of them. It begins with
/// what there is to do and ends with the question.
std::string needle_text(int64_t sentences, int64_t before, const std::string& key);

/// Tokens of a text with all that is to stand around it: chat template, beginning of the answer.
using EncodeNeedle = std::function<std::vector<int32_t>(const std::string& text)>;

/// The longest prompt of at most `tokens` tokens with the key behind `position` percent of its sentences. Empty if
/// not even a text of the key alone is so short.
std::vector<int32_t> needle_prompt(const EncodeNeedle& encode, int64_t tokens, int position, const std::string& key);

/// n keys that are the same for the same seed.
std::vector<std::string> needle_keys(uint64_t seed, int64_t n);

/// How many digits of the key the answer gives from the left; the answer's number begins at its first digit.
size_t right_digits(std::string_view answer, std::string_view key);

}  // namespace turboquant
