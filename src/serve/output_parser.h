// Takes what a model writes apart, as it comes: text for the reader, thoughts, calls of tools.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace turboquant {

/// A piece of a call: the first one of each index has its name.
struct ToolCallPart {
  int index = 0;
  std::string name;       // of the first piece
  std::string arguments;  // JSON, all pieces together
};

struct OutputPart {
  std::string content, reasoning;
  std::vector<ToolCallPart> calls;
  bool empty() const { return content.empty() && reasoning.empty() && calls.empty(); }
};

/// All pieces of add() and finish() together are the same however the text was cut.
class OutputParser {
 public:
  virtual ~OutputParser() = default;
  virtual OutputPart add(std::string_view text) = 0;
  /// The end of the text: what was held back.
  virtual OutputPart finish() = 0;
};

/// Everything is text.
std::unique_ptr<OutputParser> make_plain_parser();

struct TaggedOptions {
  bool thinks = false;     // <think> ... </think> comes first
  bool thinking = false;   // and the prompt has opened it
  bool tools = false;      // <tool_call> ... </tool_call>, [TOOL_CALLS] ...
  bool bare_call = false;  // or nothing but a JSON object {"name": ..., "parameters": ...}
};
std::unique_ptr<OutputParser> make_tagged_parser(const TaggedOptions& options);

/// gpt-oss's channels: analysis, final, commentary to=functions.NAME. `begun`: what of the answer the prompt has
/// already.
std::unique_ptr<OutputParser> make_harmony_parser(std::string_view begun = "");

/// Nothing but one call, as a grammar has forced it: {"name": "NAME", "arguments": ...}; with `name` only the
/// arguments.
std::unique_ptr<OutputParser> make_forced_parser(std::string name = "");

}  // namespace turboquant
