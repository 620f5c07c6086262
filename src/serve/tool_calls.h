// Calls of tools in the spellings of the models.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace turboquant {

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON
};

/// {"name": ..., "arguments": ...} or "parameters"; nothing if it is something else.
std::optional<ToolCall> parse_json_call(std::string_view text);
/// What stands between <tool_call> and </tool_call>: JSON, or
/// <function=NAME><parameter=KEY>VALUE</parameter></function>.
std::optional<ToolCall> parse_tagged_call(std::string_view text);
/// What follows [TOOL_CALLS]: an array of calls, or NAME[ARGS]{...}. Empty if it is something else.
std::vector<ToolCall> parse_mistral_calls(std::string_view text);

std::string_view trimmed(std::string_view text);

}  // namespace turboquant
