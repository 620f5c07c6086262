// A line of input, edited in the terminal: history, completion of commands, pasted text of many lines.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/chat_input.h"

struct TqLineEditor;

namespace turboquant {

class LineEditor {
 public:
  /// `history`: file of earlier entries; empty: none. Error: it cannot be read.
  LineEditor(const std::vector<std::string>& commands, const std::string& history);

  Line read(std::string_view prompt);
  /// For the keys that go back to earlier entries.
  void remember(std::string_view entry);

 private:
  struct Free {
    void operator()(TqLineEditor* editor) const;
  };
  std::unique_ptr<TqLineEditor, Free> editor_;
};

}  // namespace turboquant
