// The text of an evaluation: read, joined as the protocol wants it, tokenized in one piece, cut into windows.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "turboquant/evaluate.h"

namespace turboquant {

struct Windows {
  std::vector<int32_t> tokens;  // whole windows, one behind the other
  int64_t length = 0;

  int64_t count() const { return static_cast<int64_t>(tokens.size()) / length; }
  std::span<const int32_t> window(int64_t i) const {
    return std::span(tokens).subspan(static_cast<size_t>(i * length), static_cast<size_t>(length));
  }
};

/// "\r\n" and "\r" become "\n", as Python reads text.
std::string with_newlines(std::string_view text);
/// WikiText rows as the datasets library gives them, joined: blank rows dropped, "\n\n" between rows that keep their
/// own "\n". Other text stays.
std::string join_rows(const std::string& text);
/// True if the first line that is not blank is a WikiText heading: " = Title = ".
bool has_wikitext_rows(std::string_view text);

/// The first num_samples windows of seq_len tokens of a text file. `begin_each`: every window starts with the begin
/// token in place of its own first token, if the tokenizer adds one (the protocol of llama.cpp). Error if the text is
/// too short for one.
Windows cut_windows(const Tokenizer& tokenizer, const std::string& file, const EvaluateOptions& options,
                    bool begin_each);

}  // namespace turboquant
