#include "serve/chat_prompt.h"

#include <fmt/format.h>

#include <utility>

#include "serve/api_error.h"
#include "serve/constraint.h"
#include "serve/tool_calls.h"

namespace turboquant {
namespace {

constexpr std::string_view kFinal = "<|channel|>final<|message|>";

// The chat as text, with the tools where the model looks for them.
std::string render(const Service& service, const ChatRequest& request) {
  if (service.chat_template() == nullptr)
    throw bad_request("the model has no chat template: use /v1/completions", "messages");
  Json messages = request.messages, variables = request.variables;
  if (!request.tools.empty() && service.format().knows_tools) {
    variables["tools"] = request.tools;
  } else if (!request.tools.empty()) {
    const std::string text = describe_tools(request.tools);
    if (messages[0]["role"] == "system")
      messages[0]["content"] = messages[0]["content"].get<std::string>() + "\n\n" + text;
    else
      messages.insert(messages.begin(), Json{{"role", "system"}, {"content", text}});
  }
  try {
    return service.chat_template()->render_json(to_text(messages), to_text(variables));
  } catch (const Error& error) {
    throw bad_request(error.what(), "messages");
  }
}

// How an answer begins that is a call and nothing else, in the model's own spelling.
std::string opening_of_call(ToolStyle style, const Json& tools) {
  switch (style) {
    case ToolStyle::tagged:
      return "<tool_call>\n";
    case ToolStyle::mistral:
      return "[TOOL_CALLS]";
    case ToolStyle::bare:
      return "";
    case ToolStyle::harmony:
      break;
  }
  const std::string recipient =
      tools.size() == 1 ? " to=functions." + tools[0]["function"]["name"].get<std::string>() : "";
  return "<|channel|>commentary" + recipient + " <|constrain|>json<|message|>";
}

// A call that must be: its opening is the prompt's, and a grammar does the rest.
void force_call(Service& service, const ChatRequest& request, bool thinking, std::string& text, ChatPrompt& result) {
  if (thinking) text += "\n</think>\n\n";
  const ToolStyle style = service.format().tools;
  text += opening_of_call(style, request.tools);
  const bool named = style == ToolStyle::harmony && request.tools.size() == 1;
  const Json schema = named ? schema_of_arguments(request.tools[0]) : schema_of_call(request.tools);
  const std::string name = named ? request.tools[0]["function"]["name"].get<std::string>() : "";
  result.parser = [name] { return make_forced_parser(name); };
  result.generation.constraint = [&service, schema = to_text(schema)] {
    return make_constraint(service.grammar_vocabulary(), Grammar::Kind::json_schema, schema, "tools");
  };
}

void constrain(Service& service, const ChatRequest& request, bool thinking, ChatPrompt& result) {
  const bool regex = request.regex.has_value();
  result.generation.constraint = [&service, thinking, regex,
                                  grammar = regex ? *request.regex : to_text(*request.schema)] {
    auto constraint =
        make_constraint(service.grammar_vocabulary(), regex ? Grammar::Kind::regex : Grammar::Kind::json_schema,
                        grammar, regex ? "guided_regex" : "response_format");
    return thinking ? behind_thoughts(std::move(constraint), service.tokenizer()) : std::move(constraint);
  };
}

}  // namespace

ChatPrompt prepare_chat(Service& service, const ChatRequest& request) {
  const ChatFormat& format = service.format();
  const bool harmony = format.tools == ToolStyle::harmony;
  const bool tools = request.tool_use != ChatRequest::ToolUse::none;
  std::string text = render(service, request);
  const bool thinking = format.thinks && trimmed(text).ends_with("<think>");

  ChatPrompt result;
  result.generation.show_special = format.special_tokens();
  if (request.tool_use == ChatRequest::ToolUse::required) {
    force_call(service, request, thinking, text, result);
  } else {
    const bool constrained = request.schema || request.regex;
    if (constrained) constrain(service, request, thinking, result);
    if (harmony) {
      if (constrained) text += kFinal;
      result.parser = [begun = constrained ? kFinal : ""] { return make_harmony_parser(begun); };
    } else if (format.thinks || tools) {
      const TaggedOptions options{format.thinks, thinking, tools, tools && format.tools == ToolStyle::bare};
      result.parser = [options] { return make_tagged_parser(options); };
    } else {
      result.parser = make_plain_parser;
    }
  }
  if (service.options().log_prompts) service.message("prompt: " + text);

  GenerationRequest& generation = result.generation;
  generation.prompt = service.tokenizer().encode(text, false);
  generation.max_tokens = service.answer_length(generation.prompt.size(), request.parameters.max_tokens, -1);
  generation.sampling = request.parameters.sampling;
  generation.logprobs = request.parameters.logprobs;
  generation.choices = request.parameters.choices;
  generation.stop = request.parameters.stop;
  generation.ignore_end = request.parameters.ignore_end;
  return result;
}

}  // namespace turboquant
