#include "serve/tool_calls.h"

#include "serve/json_body.h"

namespace turboquant {
namespace {

std::optional<Json> parsed(std::string_view text) {
  if (json_depth(text) > kMostJsonDepth) return std::nullopt;
  Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? std::nullopt : std::optional(std::move(value));
}

std::optional<ToolCall> call_of(const Json& value) {
  if (!value.is_object() || !value.contains("name") || !value["name"].is_string()) return std::nullopt;
  for (const char* key : {"arguments", "parameters"}) {
    if (!value.contains(key)) continue;
    const Json& arguments = value[key];
    return ToolCall{value["name"].get<std::string>(),
                    arguments.is_string() ? arguments.get<std::string>() : to_text(arguments)};
  }
  return std::nullopt;
}

// <function=NAME> <parameter=KEY> VALUE </parameter> ... </function>; a value that is JSON is taken as such.
std::optional<ToolCall> parse_function(std::string_view text) {
  constexpr std::string_view kFunction = "<function=", kParameter = "<parameter=", kEnd = "</parameter>";
  if (!text.starts_with(kFunction)) return std::nullopt;
  text.remove_prefix(kFunction.size());
  const size_t name_end = text.find('>');
  if (name_end == std::string_view::npos) return std::nullopt;
  ToolCall call{std::string(trimmed(text.substr(0, name_end))), ""};
  Json arguments = Json::object();
  while (true) {
    const size_t begin = text.find(kParameter);
    if (begin == std::string_view::npos) break;
    text.remove_prefix(begin + kParameter.size());
    const size_t key_end = text.find('>'), value_end = text.find(kEnd);
    if (key_end == std::string_view::npos || value_end == std::string_view::npos || value_end < key_end)
      return std::nullopt;
    const std::string key(trimmed(text.substr(0, key_end)));
    const std::string_view value = trimmed(text.substr(key_end + 1, value_end - key_end - 1));
    const std::optional<Json> json = parsed(value);
    arguments[key] = json ? *json : Json(std::string(value));
    text.remove_prefix(value_end + kEnd.size());
  }
  call.arguments = to_text(arguments);
  return call;
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::optional<ToolCall> parse_json_call(std::string_view text) {
  const std::optional<Json> value = parsed(trimmed(text));
  return value ? call_of(*value) : std::nullopt;
}

std::optional<ToolCall> parse_tagged_call(std::string_view text) {
  text = trimmed(text);
  return text.starts_with('<') ? parse_function(text) : parse_json_call(text);
}

std::vector<ToolCall> parse_mistral_calls(std::string_view text) {
  text = trimmed(text);
  std::vector<ToolCall> calls;
  if (text.starts_with('[')) {
    const std::optional<Json> list = parsed(text);
    if (!list) return {};
    for (const Json& entry : *list) {
      std::optional<ToolCall> call = call_of(entry);
      if (!call) return {};
      calls.push_back(std::move(*call));
    }
    return calls;
  }
  constexpr std::string_view kArguments = "[ARGS]";
  const size_t found = text.find(kArguments);
  if (found == std::string_view::npos) return {};
  const std::string_view arguments = trimmed(text.substr(found + kArguments.size()));
  if (parsed(arguments)) calls.push_back({std::string(trimmed(text.substr(0, found))), std::string(arguments)});
  return calls;
}

}  // namespace turboquant
