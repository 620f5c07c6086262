#include "cli/chat_input.h"

namespace turboquant {
namespace {

constexpr std::string_view kPrompt = "> ", kContinued = ". ", kQuotes = "\"\"\"", kBlank = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

Input command(std::string_view line) {
  const size_t end = std::min(line.find_first_of(kBlank), line.size());
  return {Input::Kind::command, std::string(line.substr(0, end)), std::string(trimmed(line.substr(end)))};
}

// Up to a line that ends with three quotes, or to the end of all input.
Line quoted(const LineSource& source, std::string_view first) {
  std::string text(first.substr(kQuotes.size()));
  while (!trimmed(text).ends_with(kQuotes)) {
    Line next = source(kContinued);
    if (next.kind == Line::Kind::interrupted) return next;
    if (next.kind == Line::Kind::end) return {Line::Kind::text, std::string(trimmed(text))};
    text += "\n" + next.text;
  }
  std::string_view inner = trimmed(text);
  inner.remove_suffix(kQuotes.size());
  return {Line::Kind::text, std::string(trimmed(inner))};
}

Line continued(const LineSource& source, std::string text) {
  while (text.ends_with('\\')) {
    text.back() = '\n';
    Line next = source(kContinued);
    if (next.kind == Line::Kind::interrupted) return next;
    if (next.kind == Line::Kind::end) break;
    text += next.text;
  }
  return {Line::Kind::text, std::string(trimmed(text))};
}

}  // namespace

Input read_input(const LineSource& source) {
  while (true) {
    Line line = source(kPrompt);
    if (line.kind == Line::Kind::end) return {Input::Kind::end};
    if (line.kind == Line::Kind::interrupted) return {Input::Kind::interrupted};
    const std::string_view text = trimmed(line.text);
    if (text.starts_with('/') && !text.starts_with("//")) return command(text);
    Line message = text.starts_with(kQuotes) ? quoted(source, text) : continued(source, std::string(text));
    if (message.kind == Line::Kind::interrupted || message.text.empty()) continue;
    if (message.text.starts_with("//")) message.text.erase(0, 1);
    return {Input::Kind::message, std::move(message.text)};
  }
}

std::string for_terminal(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) continue;
    // U+0080 to U+009F in UTF-8: some terminals take them for control characters, too.
    if (c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0) {
      ++i;
      continue;
    }
    out += text[i];
  }
  return out;
}

}  // namespace turboquant
