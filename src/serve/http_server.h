// HTTP: connections, routes, keys, limits and errors; nothing of what is served.
#pragma once

#include <httplib.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "serve/connection.h"

namespace turboquant {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                    // 0: any that is free
  std::vector<std::string> api_keys;  // none: everybody may ask
  std::string cors;                   // the origin whose pages may ask, "*": all; empty: none but the server's own
  ConnectionLimits limits;
  int connections = 512;  // at once
};

/// Takes as long for every text of the same length as `given`, wherever they differ.
bool equal_in_constant_time(std::string_view given, std::string_view secret);

class HttpServer final : public httplib::Server {
 public:
  using Handler = std::function<void(const httplib::Request&, httplib::Response&)>;
  /// Of a request that was answered: method, path (that of the route), status, seconds.
  using Observer = std::function<void(const httplib::Request&, const std::string& route, int status, double seconds)>;
  enum class Access { with_key, open };

  explicit HttpServer(HttpOptions options);
  ~HttpServer() override;

  /// `pattern`: a regular expression of the path. What the handler throws becomes an error of the API.
  void route(const std::string& method, const std::string& pattern, Handler handler, Access access = Access::with_key);
  void observe(Observer observer) { observer_ = std::move(observer); }
  /// Gets one line about what was the server's own fault.
  void on_message(std::function<void(const std::string&)> message) { message_ = std::move(message); }

  /// Listens and begins to answer. Error: the address cannot be used.
  void start();
  /// http://HOST:PORT
  std::string address() const;
  /// Requests are refused with 503 from now on, and the port is closed.
  void close_door();
  /// Returns when all connections have ended.
  void stop();
  int64_t open_connections() const { return open_; }

  /// The connection of the request that this thread handles.
  static Connection& connection();

 private:
  struct Route {
    std::string method, pattern;
    std::regex path;
    Access access;
  };

  bool process_and_close_socket(socket_t socket) override;
  HandlerResponse check(const httplib::Request& request, httplib::Response& response);
  void allow_origin(const httplib::Request& request, httplib::Response& response) const;
  bool has_key(const httplib::Request& request) const;
  void complete_error(httplib::Response& response) const;
  const Route* route_of(const httplib::Request& request) const;

  HttpOptions options_;
  std::vector<Route> routes_;
  Observer observer_;
  std::function<void(const std::string&)> message_;
  std::thread listener_;
  int listening_ = -1;
  int port_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> open_{0};
};

/// Makes an answer an error of the API.
void answer_error(httplib::Response& response, const std::exception_ptr& error);

}  // namespace turboquant
