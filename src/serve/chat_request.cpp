#include "serve/chat_request.h"

#include <fmt/format.h>

#include <algorithm>

#include "serve/api_error.h"

namespace turboquant {
namespace {

constexpr size_t kMostMessages = 4096, kMostTools = 256, kMostNameBytes = 64;

// Text, or text parts in a row; anything else is nothing that this server can read.
Json parse_content(const Json& content, const std::string& path) {
  if (content.is_string() || content.is_null()) return content;
  if (!content.is_array()) throw bad_request(path + " is neither a string nor an array of parts", path);
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string part_path = fmt::format("{}[{}].", path, i);
    const Fields part(content[i], part_path);
    const std::string type = part.text("type").value_or("");
    if (type != "text" && type != "input_text" && type != "refusal")
      throw bad_request(fmt::format("{}type: only parts of type text can be read", part_path), part_path + "type");
    text += part.text(type == "refusal" ? "refusal" : "text").value_or("");
  }
  return text;
}

// Arguments of earlier calls: text in the API, objects in templates.
void parse_calls(Json& message, const std::string& path) {
  const Json* calls = Fields(message, path).array("tool_calls");
  if (calls == nullptr) return;
  for (size_t i = 0; i < calls->size(); ++i) {
    const std::string call_path = fmt::format("{}tool_calls[{}].", path, i);
    const Json* function = Fields((*calls)[i], call_path).object("function");
    if (function == nullptr) throw bad_request(call_path + "function is missing", call_path + "function");
    const Fields fields(*function, call_path + "function.");
    if (!fields.text("name")) throw bad_request(call_path + "function.name is missing", call_path + "function.name");
    const Json* arguments = fields.find("arguments");
    if (arguments == nullptr || !arguments->is_string()) continue;
    const auto& text = arguments->get_ref<const std::string&>();
    if (json_depth(text) > kMostJsonDepth) continue;
    Json object = Json::parse(text, nullptr, false);
    if (object.is_object()) message["tool_calls"][i]["function"]["arguments"] = std::move(object);
  }
}

Json parse_messages(const Fields& body) {
  const Json* list = body.array("messages");
  if (list == nullptr || list->empty()) throw bad_request("messages is missing or empty", "messages");
  if (list->size() > kMostMessages)
    throw bad_request(fmt::format("messages has more than {} entries", kMostMessages), "messages");
  Json messages = Json::array();
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = fmt::format("messages[{}].", i);
    const Fields fields((*list)[i], path);
    Json message = (*list)[i];
    const std::string role = fields.text("role").value_or("");
    constexpr std::array<std::string_view, 6> kRoles{"system", "developer", "user", "assistant", "tool", "function"};
    if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end())
      throw bad_request(path + "role must be system, developer, user, assistant or tool", path + "role");
    if (role == "developer") message["role"] = "system";
    const Json* content = fields.find("content");
    if (content == nullptr && role != "assistant") throw bad_request(path + "content is missing", path + "content");
    message["content"] = content == nullptr ? Json("") : parse_content(*content, path + "content");
    parse_calls(message, path);
    messages.push_back(std::move(message));
  }
  return messages;
}

bool is_name(const std::string& name) {
  const auto fits = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.'; };
  return !name.empty() && name.size() <= kMostNameBytes && std::all_of(name.begin(), name.end(), fits);
}

Json parse_tools(const Fields& body) {
  const Json* list = body.array("tools");
  if (list == nullptr) return Json::array();
  if (list->size() > kMostTools) throw bad_request(fmt::format("tools has more than {} entries", kMostTools), "tools");
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = fmt::format("tools[{}].", i);
    const Fields tool((*list)[i], path);
    const Json* function = tool.object("function");
    if (tool.text("type").value_or("function") != "function" || function == nullptr)
      throw bad_request(path + "type must be function, with a member function", path + "type");
    const Fields fields(*function, path + "function.");
    if (!is_name(fields.text("name").value_or("")))
      throw bad_request(path + "function.name must be 1 to 64 letters, digits, _, - or .", path + "function.name");
    fields.object("parameters");
  }
  return *list;
}

void parse_tool_choice(const Fields& body, ChatRequest& request) {
  using ToolUse = ChatRequest::ToolUse;
  const Json* choice = body.find("tool_choice");
  request.tool_use = request.tools.empty() ? ToolUse::none : ToolUse::automatic;
  if (choice == nullptr) return;
  if (choice->is_string()) {
    const auto& name = choice->get_ref<const std::string&>();
    if (name != "auto" && name != "none" && name != "required")
      throw bad_request("tool_choice must be auto, none, required, or name a function", "tool_choice");
    if (name == "required" && request.tools.empty()) throw bad_request("tool_choice needs tools", "tool_choice");
    if (name == "required") request.tool_use = ToolUse::required;
    if (name == "none") {
      request.tool_use = ToolUse::none;
      request.tools = Json::array();
    }
    return;
  }
  const Json* function = Fields(*choice, "tool_choice.").object("function");
  const std::string name =
      function == nullptr ? "" : Fields(*function, "tool_choice.function.").text("name").value_or("");
  Json named = Json::array();
  for (const Json& tool : request.tools)
    if (tool["function"]["name"] == name) named.push_back(tool);
  if (named.empty()) throw bad_request("tool_choice names no function of tools", "tool_choice");
  request.tools = std::move(named);
  request.tool_use = ToolUse::required;
}

void parse_response_format(const Fields& body, ChatRequest& request) {
  request.regex = body.text("guided_regex");
  const Json* format = body.object("response_format");
  if (format == nullptr) return;
  const Fields fields(*format, "response_format.");
  const std::string type = fields.text("type").value_or("");
  if (type == "text") return;
  if (type == "json_object") {
    // llama-server takes a schema here, too.
    const Json* schema = fields.object("schema");
    request.schema = schema != nullptr ? *schema : Json{{"type", "object"}};
    return;
  }
  if (type != "json_schema")
    throw bad_request("response_format.type must be text, json_object or json_schema", "response_format.type");
  const Json* outer = fields.object("json_schema");
  const Json* schema = outer == nullptr ? nullptr : Fields(*outer, "response_format.json_schema.").object("schema");
  if (schema == nullptr)
    throw bad_request("response_format.json_schema.schema is missing", "response_format.json_schema.schema");
  request.schema = *schema;
}

}  // namespace

ChatRequest parse_chat_request(const Fields& body, int64_t vocab_size) {
  ChatRequest request;
  request.parameters = parse_parameters(body, vocab_size);
  const auto top = body.integer("top_logprobs", 0, kMostTopLogprobs);
  if (body.boolean("logprobs").value_or(false))
    request.parameters.logprobs = static_cast<int>(top.value_or(0));
  else if (top)
    throw bad_request("top_logprobs needs logprobs: true", "top_logprobs");
  request.messages = parse_messages(body);
  request.tools = parse_tools(body);
  parse_tool_choice(body, request);
  parse_response_format(body, request);
  if (request.schema && request.regex)
    throw bad_request("guided_regex and response_format: give one of both", "guided_regex");
  if ((request.schema || request.regex) && request.tool_use == ChatRequest::ToolUse::required)
    throw bad_request("a required call of a tool has no response_format: its arguments have a schema of their own",
                      "response_format");
  if (const Json* variables = body.object("chat_template_kwargs")) request.variables = *variables;
  if (const auto effort = body.text("reasoning_effort")) request.variables["reasoning_effort"] = *effort;
  return request;
}

Json schema_of_arguments(const Json& tool) {
  const Json& function = tool["function"];
  if (function.contains("parameters") && function["parameters"].is_object() && !function["parameters"].empty())
    return function["parameters"];
  return Json{{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
}

Json schema_of_call(const Json& tools) {
  Json calls = Json::array(), definitions = Json::object();
  for (const Json& tool : tools) {
    Json arguments = schema_of_arguments(tool);
    // References within it begin at the root, which is another one now.
    for (const char* key : {"$defs", "definitions"})
      if (arguments.contains(key)) definitions[key].update(arguments[key]);
    calls.push_back(Json{{"type", "object"},
                         {"properties", {{"name", {{"const", tool["function"]["name"]}}}, {"arguments", arguments}}},
                         {"required", {"name", "arguments"}},
                         {"additionalProperties", false}});
  }
  Json schema = calls.size() == 1 ? calls[0] : Json{{"anyOf", calls}};
  for (const auto& [key, value] : definitions.items()) schema[key] = value;
  return schema;
}

std::string describe_tools(const Json& tools) {
  std::string text = "You may call functions. Their signatures, as JSON in <tools>:\n<tools>\n";
  for (const Json& tool : tools) text += to_text(tool) + "\n";
  return text +
         "</tools>\nTo call one, answer with a JSON object in <tool_call>:\n<tool_call>\n"
         R"({"name": "NAME", "arguments": {ARGUMENTS}})"
         "\n</tool_call>";
}

}  // namespace turboquant
