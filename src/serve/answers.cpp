#include "serve/answers.h"

#include <fmt/format.h>

#include "serve/api_error.h"
#include "serve/http_server.h"

namespace turboquant {

std::string sse_event(std::string_view data) { return fmt::format("data: {}\n\n", data); }

std::string printable(const std::string& bytes) {
  // The JSON library replaces what is not UTF-8; reading it back gives plain text.
  return Json::parse(to_text(Json(bytes))).get<std::string>();
}

Json usage_of(const Generation& generation) {
  return {{"prompt_tokens", generation.prompt_tokens()},
          {"completion_tokens", generation.completion_tokens()},
          {"total_tokens", generation.prompt_tokens() + generation.completion_tokens()},
          {"prompt_tokens_details", {{"cached_tokens", generation.cached_tokens()}}}};
}

Json chat_logprob(const TokenText& token) {
  const auto entry = [](const std::string& bytes, float logprob) {
    Json values = Json::array();
    for (const char c : bytes) values.push_back(static_cast<unsigned char>(c));
    return Json{{"token", printable(bytes)}, {"logprob", logprob}, {"bytes", values}};
  };
  Json result = entry(token.bytes, token.logprob);
  result["top_logprobs"] = Json::array();
  for (const auto& [bytes, logprob] : token.top) result["top_logprobs"].push_back(entry(bytes, logprob));
  return result;
}

void answer_stream(httplib::Response& response, Service& service, std::shared_ptr<Generation> generation,
                   EventStream stream) {
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");  // proxies of nginx's kind pass on what comes at once
  response.set_chunked_content_provider(
      "text/event-stream", [&service, generation = std::move(generation), stream = std::move(stream)](
                               size_t, httplib::DataSink& sink) mutable {
        const auto send = [&](const std::string& text) { return text.empty() || sink.write(text.data(), text.size()); };
        try {
          bool going = send(stream.first());
          while (going) {
            const std::optional<GenerationEvent> event = generation->next(HttpServer::connection());
            if (!event) break;
            going = send(stream.write(*event));
          }
          if (!going) {
            service.metrics().add_disconnect();
            generation.reset();
            return false;
          }
          send(stream.last() + std::string(kSseDone));
        } catch (const ClientGone&) {
          generation.reset();
          return false;
        } catch (const std::exception& error) {
          // The status has long been sent; clients know an event with an error.
          service.message(fmt::format("a stream ended: {}", error.what()));
          send(sse_event(error_body(api_error_of(std::current_exception()))));
        }
        generation.reset();
        sink.done();
        return true;
      });
}

void answer_json(httplib::Response& response, const Json& body) {
  response.set_content(to_text(body), "application/json");
}

std::string client_of(const httplib::Request& request) {
  const std::string key = request.get_header_value("Authorization");
  return key.empty() ? request.remote_addr : key;
}

}  // namespace turboquant
