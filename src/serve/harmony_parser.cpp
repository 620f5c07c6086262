// gpt-oss's answers: messages of <|start|>HEADER<|message|>BODY<|end|>, the first of them begun by the prompt. A header
// names a channel (analysis, commentary, final) and perhaps a recipient (to=functions.NAME).
#include <algorithm>
#include <array>
#include <string>

#include "serve/output_parser.h"

namespace turboquant {
namespace {

constexpr std::string_view kMessage = "<|message|>", kChannel = "<|channel|>", kFunction = "to=functions.";
constexpr std::array<std::string_view, 4> kEnds{"<|end|>", "<|call|>", "<|return|>", "<|start|>"};

// The word that follows `mark`: up to white space or the next special token.
std::string word_behind(std::string_view header, std::string_view mark) {
  const size_t found = header.find(mark);
  if (found == std::string_view::npos) return "";
  header.remove_prefix(found + mark.size());
  return std::string(header.substr(0, header.find_first_of(" \t\r\n<")));
}

class HarmonyParser final : public OutputParser {
 public:
  OutputPart add(std::string_view text) override {
    OutputPart out;
    held_ += text;
    while (in_body_ ? read_body(out, false) : read_header(out)) {
    }
    return out;
  }

  OutputPart finish() override {
    OutputPart out;
    if (in_body_) read_body(out, true);
    held_.clear();
    return out;
  }

 private:
  bool read_header(OutputPart& out) {
    const size_t found = held_.find(kMessage);
    if (found == std::string::npos) return false;
    const std::string_view header = std::string_view(held_).substr(0, found);
    const std::string channel = word_behind(header, kChannel), function = word_behind(header, kFunction);
    part_ = !function.empty() ? Part::call : channel == "analysis" ? Part::reasoning : Part::content;
    if (part_ == Part::call) out.calls.push_back({++call_, function, ""});
    held_.erase(0, found + kMessage.size());
    in_body_ = true;
    return true;
  }

  bool read_body(OutputPart& out, bool last) {
    size_t first = held_.size(), keep = 0;
    std::string_view end;
    for (const std::string_view candidate : kEnds) {
      if (const size_t found = held_.find(candidate); found < first) {
        first = found;
        end = candidate;
      }
      for (size_t n = std::min(held_.size(), candidate.size() - 1); n > keep; --n)
        if (held_.ends_with(candidate.substr(0, n))) keep = n;
    }
    if (end.empty() && !last) first -= keep;
    give(out, held_.substr(0, first));
    held_.erase(0, first + end.size());
    if (!end.empty()) in_body_ = false;
    return !end.empty();
  }

  void give(OutputPart& out, const std::string& text) {
    if (text.empty()) return;
    if (part_ == Part::content) out.content += text;
    if (part_ == Part::reasoning) out.reasoning += text;
    if (part_ != Part::call) return;
    if (!out.calls.empty() && out.calls.back().index == call_)
      out.calls.back().arguments += text;
    else
      out.calls.push_back({call_, "", text});
  }

  enum class Part { content, reasoning, call };
  std::string held_;
  bool in_body_ = false;
  Part part_ = Part::content;
  int call_ = -1;
};

}  // namespace

std::unique_ptr<OutputParser> make_harmony_parser(std::string_view begun) {
  auto parser = std::make_unique<HarmonyParser>();
  parser->add(begun);
  return parser;
}

}  // namespace turboquant
