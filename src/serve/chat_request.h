// The body of /v1/chat/completions, checked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "serve/json_body.h"
#include "serve/parameters.h"

namespace turboquant {

struct ChatRequest {
  enum class ToolUse { none, automatic, required };

  Json messages;               // as templates want them: contents are text, arguments of calls are objects
  Json tools = Json::array();  // those that may be called; empty: none
  ToolUse tool_use = ToolUse::none;
  std::optional<Json> schema;        // of response_format
  std::optional<std::string> regex;  // vLLM's guided_regex
  Json variables = Json::object();   // chat_template_kwargs, reasoning_effort
  Parameters parameters;
};

/// ApiError 400 that names the member.
ChatRequest parse_chat_request(const Fields& body, int64_t vocab_size);

/// What a grammar for calls of these tools allows: {"name": ..., "arguments": ...}.
Json schema_of_call(const Json& tools);
/// The schema of a tool's arguments.
Json schema_of_arguments(const Json& tool);

/// A system message that tells a model of tools whose template does not.
std::string describe_tools(const Json& tools);

}  // namespace turboquant
