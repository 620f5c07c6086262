#include "serve/api_server.h"

#include <fmt/format.h>

#include "serve/answers.h"
#include "serve/endpoints.h"
#include "serve/page.h"

namespace turboquant {
namespace {

void answer_page(const httplib::Request&, httplib::Response& response) {
  response.set_header("Content-Security-Policy", std::string(chat_page_policy()));
  response.set_header("X-Content-Type-Options", "nosniff");
  response.set_header("Referrer-Policy", "no-referrer");
  response.set_header("Cache-Control", "no-cache");
  const std::string_view page = chat_page();
  response.set_content(page.data(), page.size(), "text/html; charset=utf-8");
}

}  // namespace

ApiServer::ApiServer(LanguageModel& model, ServerOptions options)
    : options_(std::move(options)),
      engine_(model, options_.engine),
      service_(model, engine_, options_.service),
      http_(options_.http) {
  http_.on_message([this](const std::string& line) { service_.message(line); });
  http_.observe([this](const httplib::Request& request, const std::string& route, int status, double seconds) {
    service_.metrics().add_request(route, status, seconds);
    service_.message(fmt::format("{} {} {} {:.0f} ms", request.method, route, status, seconds * 1e3));
  });
  add_routes();
}

ApiServer::~ApiServer() { stop(); }

void ApiServer::add_routes() {
  using Request = httplib::Request;
  using Response = httplib::Response;
  const auto post = [this](const std::string& path, void (*answer)(Service&, const Request&, Response&)) {
    http_.route("POST", path,
                [this, answer](const Request& request, Response& response) { answer(service_, request, response); });
  };
  post("/v1/chat/completions", answer_chat);
  post("/v1/completions", answer_completion);
  post("/v1/embeddings", answer_embeddings);
  post("/tokenize", answer_tokenize);
  post("/detokenize", answer_detokenize);
  http_.route("GET", "/", answer_page, HttpServer::Access::open);
  http_.route("GET", "/v1/models", [this](const Request&, Response& response) { answer_models(service_, response); });
  http_.route("GET", "/v1/models/(.+)", [this](const Request& request, Response& response) {
    answer_model(service_, request.matches[1], response);
  });
  http_.route("GET", "/metrics", [this](const Request&, Response& response) {
    response.set_content(service_.metrics().print(engine_.statistics(), http_.open_connections()),
                         "text/plain; version=0.0.4");
  });
  http_.route(
      "GET", "/health",
      [](const Request&, Response& response) {
        answer_json(response, {{"status", "ok"}});
      },
      HttpServer::Access::open);
}

void ApiServer::start() { http_.start(); }

void ApiServer::stop() {
  http_.close_door();
  service_.close();
  engine_.drain(options_.shutdown_seconds);
  service_.abort();
  http_.stop();
}

}  // namespace turboquant
