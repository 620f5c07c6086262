#include "generate/evaluation_text.h"

#include <algorithm>

#include "io/files.h"

namespace turboquant {
namespace {

bool blank(std::string_view line) { return line.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

template <typename Use>
void each_line(std::string_view text, const Use& use) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    if (!use(text.substr(0, end))) return;
    text.remove_prefix(end);
  }
}

}  // namespace

std::string with_newlines(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i)
    if (text[i] != '\r')
      result += text[i];
    else if (i + 1 == text.size() || text[i + 1] != '\n')
      result += '\n';
  return result;
}

std::string join_rows(const std::string& text) {
  std::string joined;
  each_line(text, [&](std::string_view line) {
    if (!blank(line)) joined += (joined.empty() ? "" : "\n\n") + std::string(line);
    return true;
  });
  return joined;
}

bool has_wikitext_rows(std::string_view text) {
  bool heading = false;
  each_line(text, [&](std::string_view line) {
    if (blank(line)) return true;
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    heading = line.starts_with(" = ") && line.ends_with(" =");
    return false;
  });
  return heading;
}

Windows cut_windows(const Tokenizer& tokenizer, const std::string& file, const EvaluateOptions& options,
                    bool begin_each) {
  std::string text = read_text(file);
  if (options.rows != "auto" && options.rows != "yes" && options.rows != "no")
    throw UsageError("--rows " + options.rows + ": use auto, yes or no");
  // llama-perplexity takes a file as it is; Python opens it as text.
  if (!begin_each) text = with_newlines(text);
  if (!begin_each && (options.rows == "yes" || (options.rows == "auto" && has_wikitext_rows(text))))
    text = join_rows(text);
  Windows windows;
  windows.tokens = tokenizer.encode(text);
  windows.length = options.seq_len;
  const size_t whole =
      std::min(windows.tokens.size() / static_cast<size_t>(windows.length), static_cast<size_t>(options.num_samples));
  if (whole == 0)
    throw Error(file + ": has " + std::to_string(windows.tokens.size()) + " tokens, fewer than one window of " +
                std::to_string(windows.length) + "; use a longer text or a smaller --seq-len");
  windows.tokens.resize(whole * static_cast<size_t>(windows.length));
  const std::vector<int32_t> with = tokenizer.encode("a"), without = tokenizer.encode("a", false);
  if (begin_each && with.size() > without.size())
    for (size_t i = 0; i < whole; ++i) windows.tokens[i * static_cast<size_t>(windows.length)] = with.front();
  return windows;
}

}  // namespace turboquant
