// What a person enters in a chat: messages of one line or many, and commands.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace turboquant {

struct Line {
  enum class Kind { text, interrupted, end } kind = Kind::text;
  std::string text = {};  // without the line's end; may have more lines where a terminal gives pasted text in one
};

/// Shows a prompt, where there is somebody to see it, and reads a line.
using LineSource = std::function<Line(std::string_view prompt)>;

struct Input {
  enum class Kind { message, command, interrupted, end } kind = Kind::message;
  std::string text = {};      // the message; of a command its word, "/save"
  std::string argument = {};  // of a command: the rest of its line
};

/// The next message or command; empty lines are skipped. A backslash at the end of a line continues the message on the
/// next one, and so do three quotes before it, up to a line that ends with three. "//" begins a message with a slash.
Input read_input(const LineSource& source);

/// Text of a model for a terminal: without the control characters that could move its cursor or do worse.
std::string for_terminal(std::string_view text);

}  // namespace turboquant
