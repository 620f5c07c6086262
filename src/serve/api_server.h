// The server as a whole: an engine, its API, HTTP.
#pragma once

#include <memory>
#include <string>

#include "generate/engine.h"
#include "serve/http_server.h"
#include "serve/service.h"

namespace turboquant {

struct ServerOptions {
  HttpOptions http;
  EngineOptions engine;
  ServiceOptions service;
  double shutdown_seconds = 30;  // that running requests get to end
};

class ApiServer {
 public:
  ApiServer(LanguageModel& model, ServerOptions options);
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  /// Error: the address cannot be used.
  void start();
  std::string address() const { return http_.address(); }
  /// Takes no requests any more, lets the running ones end for a while, then ends them.
  void stop();

 private:
  void add_routes();

  ServerOptions options_;
  Engine engine_;
  Service service_;
  HttpServer http_;  // ends first: its threads use the others
};

}  // namespace turboquant
