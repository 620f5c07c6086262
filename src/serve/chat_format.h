// How a model writes thoughts and calls, told from its chat template.
#pragma once

#include <string>
#include <string_view>

namespace turboquant {

enum class ToolStyle {
  tagged,   // <tool_call>{...}</tool_call>, and what a template without tools is told to write
  mistral,  // [TOOL_CALLS]
  bare,     // nothing but JSON
  harmony,  // channels
};

struct ChatFormat {
  bool thinks = false;       // <think> ... </think>
  bool knows_tools = false;  // the template lists them itself
  ToolStyle tools = ToolStyle::tagged;
  /// Whether special tokens must be seen to take an answer apart.
  bool special_tokens() const { return tools == ToolStyle::harmony || tools == ToolStyle::mistral; }
};

ChatFormat chat_format_of(std::string_view chat_template);

}  // namespace turboquant
