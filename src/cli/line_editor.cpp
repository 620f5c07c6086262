#include "cli/line_editor.h"

#include "rust/tq_line.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

std::string taken(TqText text) {
  std::string copy(text.data == nullptr ? "" : text.data, text.size);
  tq_text_free(text);
  return copy;
}

}  // namespace

void LineEditor::Free::operator()(TqLineEditor* editor) const { tq_line_free(editor); }

LineEditor::LineEditor(const std::vector<std::string>& commands, const std::string& history) {
  std::string lines;
  for (const std::string& command : commands) lines += command + "\n";
  TqLineEditor* editor = nullptr;
  TqText error{};
  if (tq_line_new(lines.data(), lines.size(), history.data(), history.size(), &editor, &error) != 0)
    throw Error("the history " + history + " cannot be read: " + taken(error) + "; --history '' goes without one");
  editor_.reset(editor);
}

Line LineEditor::read(std::string_view prompt) {
  int kind = 0;
  TqText text{}, error{};
  if (tq_line_read(editor_.get(), prompt.data(), prompt.size(), &kind, &text, &error) != 0)
    throw Error("the terminal cannot be read: " + taken(error));
  const Line::Kind known = kind == tq_line_text          ? Line::Kind::text
                           : kind == tq_line_interrupted ? Line::Kind::interrupted
                                                         : Line::Kind::end;
  return {known, taken(text)};
}

void LineEditor::remember(std::string_view entry) {
  TqText error{};
  if (tq_line_remember(editor_.get(), entry.data(), entry.size(), &error) != 0)
    throw Error("the history cannot be written: " + taken(error) + "; --history '' goes without one");
}

}  // namespace turboquant
