// /v1/chat/completions
#include <utility>

#include "serve/answers.h"
#include "serve/chat_prompt.h"
#include "serve/chat_request.h"
#include "serve/endpoints.h"
#include "serve/http_server.h"

namespace turboquant {
namespace {

// One choice as it comes: what it has so far, and what is new.
class Choice {
 public:
  explicit Choice(std::unique_ptr<OutputParser> parser) : parser_(std::move(parser)) {}

  OutputPart add(const GenerationEvent& event) {
    OutputPart part = parser_->add(event.text);
    if (event.result) {
      OutputPart rest = parser_->finish();
      part.content += rest.content;
      part.reasoning += rest.reasoning;
      for (ToolCallPart& call : rest.calls) part.calls.push_back(std::move(call));
    }
    called_ = called_ || !part.calls.empty();
    return part;
  }
  const char* reason(const EngineResult& result) const {
    return called_ && result.finish == Finish::stop ? "tool_calls" : finish_reason(result);
  }

 private:
  std::unique_ptr<OutputParser> parser_;
  bool called_ = false;
};

struct Chat {
  std::string id = new_id("chatcmpl-");
  int64_t created = unix_time();
  std::string model;
  bool logprobs = false, include_usage = false;
  std::vector<Choice> choices;
  std::shared_ptr<Generation> generation;

  Json head(const char* object) const {
    return {{"id", id}, {"object", object}, {"created", created}, {"model", model}};
  }
};

Json call_of(const ToolCallPart& part) {
  return {{"id", new_id("call_")},
          {"type", "function"},
          {"function", {{"name", part.name}, {"arguments", part.arguments}}}};
}

// The answer in one piece.
Json whole_answer(Chat& chat, const Connection& connection) {
  struct Message {
    std::string content, reasoning;
    Json calls = Json::array(), logprobs = Json::array();
    const char* reason = "stop";
  };
  std::vector<Message> messages(chat.choices.size());
  while (const auto event = chat.generation->next(connection)) {
    const auto index = static_cast<size_t>(event->choice);
    Message& message = messages[index];
    OutputPart part = chat.choices[index].add(*event);
    message.content += part.content;
    message.reasoning += part.reasoning;
    for (const ToolCallPart& call : part.calls) {
      if (static_cast<size_t>(call.index) == message.calls.size()) {
        message.calls.push_back(call_of(call));
      } else {
        auto& arguments = message.calls.back()["function"]["arguments"].get_ref<std::string&>();
        arguments += call.arguments;
      }
    }
    if (event->token) message.logprobs.push_back(chat_logprob(*event->token));
    if (event->result) message.reason = chat.choices[index].reason(*event->result);
  }
  Json answer = chat.head("chat.completion");
  answer["choices"] = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    Message& message = messages[i];
    Json value = {{"role", "assistant"}, {"content", message.content}, {"refusal", nullptr}};
    if (!message.reasoning.empty()) value["reasoning_content"] = message.reasoning;
    if (!message.calls.empty()) {
      if (message.content.empty()) value["content"] = nullptr;
      value["tool_calls"] = message.calls;
    }
    Json logprobs = nullptr;
    if (chat.logprobs) logprobs = {{"content", message.logprobs}, {"refusal", nullptr}};
    answer["choices"].push_back(
        {{"index", i}, {"message", value}, {"logprobs", logprobs}, {"finish_reason", message.reason}});
  }
  answer["usage"] = usage_of(*chat.generation);
  return answer;
}

std::string chunk(const Chat& chat, int index, Json delta, Json reason, Json logprobs) {
  Json value = chat.head("chat.completion.chunk");
  value["choices"] = Json::array({Json{{"index", index},
                                       {"delta", std::move(delta)},
                                       {"logprobs", std::move(logprobs)},
                                       {"finish_reason", std::move(reason)}}});
  if (chat.include_usage) value["usage"] = nullptr;
  return sse_event(to_text(value));
}

std::string chunks_of(Chat& chat, const GenerationEvent& event) {
  Choice& choice = chat.choices[static_cast<size_t>(event.choice)];
  const OutputPart part = choice.add(event);
  Json delta = Json::object(), logprobs = nullptr;
  if (!part.content.empty()) delta["content"] = part.content;
  if (!part.reasoning.empty()) delta["reasoning_content"] = part.reasoning;
  for (const ToolCallPart& call : part.calls) {
    Json value = {{"index", call.index}};
    if (!call.name.empty()) value.update(call_of(call));
    if (call.name.empty()) value["function"] = {{"arguments", call.arguments}};
    delta["tool_calls"].push_back(std::move(value));
  }
  if (event.token) logprobs = {{"content", Json::array({chat_logprob(*event.token)})}, {"refusal", nullptr}};
  std::string out;
  if (!delta.empty() || event.token) out += chunk(chat, event.choice, delta, nullptr, logprobs);
  if (event.result) out += chunk(chat, event.choice, Json::object(), choice.reason(*event.result), nullptr);
  return out;
}

EventStream stream_of(const std::shared_ptr<Chat>& chat) {
  EventStream stream;
  stream.first = [chat] {
    std::string out;
    for (size_t i = 0; i < chat->choices.size(); ++i)
      out += chunk(*chat, static_cast<int>(i), {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    return out;
  };
  stream.write = [chat](const GenerationEvent& event) { return chunks_of(*chat, event); };
  stream.last = [chat] {
    if (!chat->include_usage) return std::string();
    Json value = chat->head("chat.completion.chunk");
    value["choices"] = Json::array();
    value["usage"] = usage_of(*chat->generation);
    return sse_event(to_text(value));
  };
  return stream;
}

}  // namespace

void answer_chat(Service& service, const httplib::Request& request, httplib::Response& response) {
  const Json body = parse_body(request.body);
  const Fields fields(body);
  service.check_model(fields.text("model"));
  const ChatRequest parsed = parse_chat_request(fields, service.vocab_size());
  ChatPrompt prompt = prepare_chat(service, parsed);
  prompt.generation.client = client_of(request);

  auto chat = std::make_shared<Chat>();
  chat->model = service.options().model_name;
  chat->logprobs = parsed.parameters.logprobs >= 0;
  chat->include_usage = parsed.parameters.include_usage;
  for (int i = 0; i < parsed.parameters.choices; ++i) chat->choices.emplace_back(prompt.parser());
  chat->generation = std::make_shared<Generation>(service, std::move(prompt.generation));
  if (parsed.parameters.stream) {
    answer_stream(response, service, chat->generation, stream_of(chat));
  } else {
    answer_json(response, whole_answer(*chat, HttpServer::connection()));
  }
}

}  // namespace turboquant
