// /v1/completions
#include <fmt/format.h>

#include <utility>

#include "serve/answers.h"
#include "serve/api_error.h"
#include "serve/constraint.h"
#include "serve/endpoints.h"
#include "serve/http_server.h"
#include "serve/parameters.h"

namespace turboquant {
namespace {

constexpr int64_t kUsualTokens = 16;  // OpenAI's

struct Completion {
  std::string id = new_id("cmpl-");
  int64_t created = unix_time();
  std::string model;
  bool logprobs = false, include_usage = false;
  int choices = 1;
  std::string echo;             // the prompt, if it is to be repeated
  std::vector<size_t> offsets;  // of the next token, for each choice
  std::shared_ptr<Generation> generation;

  Json head() const { return {{"id", id}, {"object", "text_completion"}, {"created", created}, {"model", model}}; }
};

// Text, or token ids as numbers.
std::vector<int32_t> parse_prompt(const Fields& body, const Service& service) {
  const Json* prompt = body.find("prompt");
  if (prompt == nullptr) throw bad_request("prompt is missing", "prompt");
  if (prompt->is_array() && prompt->size() == 1 && !(*prompt)[0].is_number()) prompt = &(*prompt)[0];
  if (prompt->is_string()) return service.tokenizer().encode(prompt->get<std::string>());
  std::vector<int32_t> tokens;
  if (!prompt->is_array()) throw bad_request("prompt is neither a string nor an array of token ids", "prompt");
  for (const Json& token : *prompt) {
    if (!token.is_number_integer())
      throw bad_request("prompt: give one text, or the token ids of one; one request a prompt", "prompt");
    const auto id = token.get<int64_t>();
    if (id < 0 || id >= service.vocab_size())
      throw bad_request(fmt::format("prompt: token ids are 0 to {}", service.vocab_size() - 1), "prompt");
    tokens.push_back(static_cast<int32_t>(id));
  }
  return tokens;
}

Json empty_logprobs() {
  return {{"tokens", Json::array()},
          {"token_logprobs", Json::array()},
          {"top_logprobs", Json::array()},
          {"text_offset", Json::array()}};
}

void add_logprob(Json& logprobs, const TokenText& token, size_t& offset) {
  Json top = Json::object();
  for (const auto& [bytes, logprob] : token.top) top.emplace(printable(bytes), logprob);  // the likeliest of a spelling
  logprobs["tokens"].push_back(printable(token.bytes));
  logprobs["token_logprobs"].push_back(token.logprob);
  logprobs["top_logprobs"].push_back(std::move(top));
  logprobs["text_offset"].push_back(offset);
  offset += token.bytes.size();
}

Json whole_answer(Completion& completion, const Connection& connection) {
  const auto count = static_cast<size_t>(completion.choices);
  std::vector<std::string> texts(count, completion.echo);
  std::vector<Json> logprobs(count, empty_logprobs());
  std::vector<const char*> reasons(count, "stop");
  while (const auto event = completion.generation->next(connection)) {
    const auto index = static_cast<size_t>(event->choice);
    texts[index] += event->text;
    if (event->token) add_logprob(logprobs[index], *event->token, completion.offsets[index]);
    if (event->result) reasons[index] = finish_reason(*event->result);
  }
  Json answer = completion.head();
  answer["choices"] = Json::array();
  for (size_t i = 0; i < count; ++i)
    answer["choices"].push_back({{"index", i},
                                 {"text", texts[i]},
                                 {"logprobs", completion.logprobs ? logprobs[i] : Json(nullptr)},
                                 {"finish_reason", reasons[i]}});
  answer["usage"] = usage_of(*completion.generation);
  return answer;
}

std::string chunk(const Completion& completion, int index, const std::string& text, Json reason, Json logprobs) {
  Json value = completion.head();
  value["choices"] = Json::array({Json{
      {"index", index}, {"text", text}, {"logprobs", std::move(logprobs)}, {"finish_reason", std::move(reason)}}});
  if (completion.include_usage) value["usage"] = nullptr;
  return sse_event(to_text(value));
}

EventStream stream_of(const std::shared_ptr<Completion>& completion) {
  EventStream stream;
  stream.first = [completion] {
    std::string out;
    for (int i = 0; i < completion->choices && !completion->echo.empty(); ++i)
      out += chunk(*completion, i, completion->echo, nullptr, nullptr);
    return out;
  };
  stream.write = [completion](const GenerationEvent& event) {
    Json logprobs = nullptr, reason = nullptr;
    if (event.token) {
      logprobs = empty_logprobs();
      add_logprob(logprobs, *event.token, completion->offsets[static_cast<size_t>(event.choice)]);
    }
    if (event.result) reason = finish_reason(*event.result);
    if (event.text.empty() && !event.token && !event.result) return std::string();
    return chunk(*completion, event.choice, event.text, reason, logprobs);
  };
  stream.last = [completion] {
    if (!completion->include_usage) return std::string();
    Json value = completion->head();
    value["choices"] = Json::array();
    value["usage"] = usage_of(*completion->generation);
    return sse_event(to_text(value));
  };
  return stream;
}

// vLLM's members: a grammar for plain completions.
void constrain(Service& service, const Fields& body, GenerationRequest& request) {
  const std::optional<std::string> regex = body.text("guided_regex");
  const Json* schema = body.object("guided_json");
  if (regex && schema != nullptr) throw bad_request("guided_json and guided_regex: give one of both", "guided_json");
  if (!regex && schema == nullptr) return;
  const std::string grammar = regex ? *regex : to_text(*schema);
  request.constraint = [&service, grammar, is_regex = regex.has_value()] {
    return make_constraint(service.grammar_vocabulary(), is_regex ? Grammar::Kind::regex : Grammar::Kind::json_schema,
                           grammar, is_regex ? "guided_regex" : "guided_json");
  };
}

}  // namespace

void answer_completion(Service& service, const httplib::Request& request, httplib::Response& response) {
  const Json body = parse_body(request.body);
  const Fields fields(body);
  service.check_model(fields.text("model"));
  const Parameters parameters = parse_parameters(fields, service.vocab_size());
  const auto logprobs = fields.integer("logprobs", 0, kMostTopLogprobs);
  const bool echo = fields.boolean("echo").value_or(false);
  if (echo && logprobs) throw bad_request("echo with logprobs: the prompt has no logprobs here", "echo");
  if (fields.find("suffix") != nullptr) throw bad_request("suffix is not supported", "suffix");

  GenerationRequest generation;
  generation.prompt = parse_prompt(fields, service);
  generation.max_tokens = service.answer_length(generation.prompt.size(), parameters.max_tokens, kUsualTokens);
  generation.sampling = parameters.sampling;
  generation.logprobs = static_cast<int>(logprobs.value_or(-1));
  generation.choices = parameters.choices;
  generation.stop = parameters.stop;
  generation.ignore_end = parameters.ignore_end;
  generation.client = client_of(request);
  constrain(service, fields, generation);

  auto completion = std::make_shared<Completion>();
  completion->model = service.options().model_name;
  completion->logprobs = logprobs.has_value();
  completion->include_usage = parameters.include_usage;
  completion->choices = parameters.choices;
  completion->offsets.assign(static_cast<size_t>(parameters.choices), 0);
  if (echo || service.options().log_prompts) {
    const std::string text = service.tokenizer().decode(generation.prompt);
    if (service.options().log_prompts) service.message("prompt: " + text);
    if (echo) completion->echo = text;
  }
  completion->generation = std::make_shared<Generation>(service, std::move(generation));
  if (parameters.stream) {
    answer_stream(response, service, completion->generation, stream_of(completion));
  } else {
    answer_json(response, whole_answer(*completion, HttpServer::connection()));
  }
}

}  // namespace turboquant
