#include "serve/http_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <chrono>
#include <utility>

#include "core/thread_pool.h"
#include "serve/api_error.h"

namespace turboquant {
namespace {

constexpr size_t kRequestsOfAConnection = 10'000;
constexpr int kBacklog = 512;
constexpr int kRefusers = 8;  // threads for connections above the limit, which only hear that they are too many
constexpr const char* kJson = "application/json";

thread_local Connection* current_connection = nullptr;
thread_local std::chrono::steady_clock::time_point request_start;

void answer(httplib::Response& response, int status, const std::string& message, const std::string& code = "") {
  response.status = status;
  response.set_content(error_body(status, message, "", code), kJson);
}

// The same for a request that HTTP itself went wrong with.
std::pair<int, const char*> status_of(Connection::Trouble trouble, int status) {
  switch (trouble) {
    case Connection::Trouble::slow:
      return {408, "the request took too long to arrive"};
    case Connection::Trouble::long_headers:
      return {431, "the request's headers are too long"};
    case Connection::Trouble::long_body:
      return {413, "the request's body is too long"};
    default:
      break;
  }
  switch (status) {
    case 404:
      return {404, "there is nothing at this path; the API's is /v1"};
    case 413:
      return {413, "the request's body is too long"};
    case 414:
      return {414, "the request's path is too long"};
    default:
      return {status, status < 500 ? "the request is not valid HTTP" : "the server failed at this request"};
  }
}

}  // namespace

bool equal_in_constant_time(std::string_view given, std::string_view secret) {
  size_t difference = given.size() ^ secret.size();
  for (size_t i = 0; i < given.size(); ++i)
    difference |= static_cast<unsigned char>(given[i]) ^
                  static_cast<unsigned char>(secret.empty() ? '\0' : secret[i % secret.size()]);
  return difference == 0;
}

void answer_error(httplib::Response& response, const std::exception_ptr& error) {
  const ApiError known = api_error_of(error);
  response.status = known.status;
  response.set_content(error_body(known), kJson);
  if (known.retry_after_seconds > 0) response.set_header("Retry-After", std::to_string(known.retry_after_seconds));
}

HttpServer::HttpServer(HttpOptions options) : options_(std::move(options)) {
  new_task_queue = [this] { return new httplib::ThreadPool(static_cast<size_t>(options_.connections + kRefusers)); };
  set_tcp_nodelay(true);
  set_payload_max_length(options_.limits.body_bytes);
  set_keep_alive_max_count(kRequestsOfAConnection);
  set_keep_alive_timeout(std::chrono::duration_cast<std::chrono::seconds>(options_.limits.idle).count());
  // Not SO_REUSEPORT, which the library would set: a second server on the same port must fail.
  set_socket_options([this](socket_t socket) {
    const int on = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    listening_ = socket;
  });
  set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    const HandlerResponse result = check(request, response);
    if (result == HandlerResponse::Handled) connection().refuse_body();
    return result;
  });
  set_error_handler(
      Handler([this](const httplib::Request&, httplib::Response& response) { complete_error(response); }));
  set_logger([this](const httplib::Request& request, const httplib::Response& response) {
    if (!observer_) return;
    const Route* route = route_of(request);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - request_start;
    observer_(request, route == nullptr ? "other" : route->pattern, response.status, time.count());
  });
}

HttpServer::~HttpServer() {
  close_door();
  stop();
}

void HttpServer::route(const std::string& method, const std::string& pattern, Handler handler, Access access) {
  routes_.push_back({method, pattern, std::regex(pattern), access});
  const auto guarded = [this, handler = std::move(handler)](const httplib::Request& request,
                                                            httplib::Response& response) {
    try {
      handler(request, response);
    } catch (const std::exception& error) {
      answer_error(response, std::current_exception());
      if (response.status == 500 && message_) message_(fmt::format("{} failed: {}", request.path, error.what()));
    }
  };
  if (method == "GET") Get(pattern, guarded);
  if (method == "POST") Post(pattern, guarded);
}

const HttpServer::Route* HttpServer::route_of(const httplib::Request& request) const {
  for (const Route& route : routes_)
    if (std::regex_match(request.path, route.path)) return &route;
  return nullptr;
}

bool HttpServer::has_key(const httplib::Request& request) const {
  const std::string header = request.get_header_value("Authorization");
  constexpr std::string_view kScheme = "Bearer ";
  std::string_view given = header;
  if (given.starts_with(kScheme)) given.remove_prefix(kScheme.size());
  bool known = false;
  for (const std::string& key : options_.api_keys) known |= equal_in_constant_time(given, key);
  return known;
}

void HttpServer::allow_origin(const httplib::Request& request, httplib::Response& response) const {
  const std::string origin = request.get_header_value("Origin");
  if (options_.cors.empty() || origin.empty() || (options_.cors != "*" && options_.cors != origin)) return;
  response.set_header("Access-Control-Allow-Origin", options_.cors);
  if (options_.cors != "*") response.set_header("Vary", "Origin");
}

// What is decided before a request's body is read.
HttpServer::HandlerResponse HttpServer::check(const httplib::Request& request, httplib::Response& response) {
  const auto refuse = [&](int status, const std::string& message, const std::string& code = "") {
    answer(response, status, message, code);
    return HandlerResponse::Handled;
  };
  allow_origin(request, response);
  const Route* route = route_of(request);
  if (route == nullptr) return refuse(404, "there is nothing at this path; the API's is /v1", "unknown_path");
  if (request.method == "OPTIONS" && response.has_header("Access-Control-Allow-Origin")) {
    response.set_header("Access-Control-Allow-Methods", "GET, POST");
    response.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type");
    response.set_header("Access-Control-Max-Age", "600");
    response.status = 204;
    return HandlerResponse::Handled;
  }
  if (request.method != route->method && !(request.method == "HEAD" && route->method == "GET")) {
    response.set_header("Allow", route->method);
    return refuse(405, fmt::format("use {} at this path", route->method), "method_not_allowed");
  }
  if (route->access == Access::with_key && !options_.api_keys.empty() && !has_key(request)) {
    response.set_header("WWW-Authenticate", "Bearer");
    return refuse(401, "a key is needed: send the header Authorization: Bearer KEY with one that the server was given",
                  "invalid_api_key");
  }
  if (stopping_) {
    response.set_header("Retry-After", "10");
    return refuse(503, "the server is shutting down", "shutting_down");
  }
  if (request.method != "POST") return HandlerResponse::Unhandled;
  // A page of another origin cannot send this type without asking first (CORS).
  if (!request.get_header_value("Content-Type").starts_with(kJson))
    return refuse(415, "send the body as Content-Type: application/json");
  if (request.has_header("Content-Encoding")) return refuse(415, "send the body without Content-Encoding");
  return HandlerResponse::Unhandled;
}

void HttpServer::complete_error(httplib::Response& response) const {
  if (!response.body.empty()) return;
  const auto [status, message] = status_of(connection().trouble(), response.status);
  answer(response, status, message);
  connection().give_up();  // where the next request would begin is not known
}

void HttpServer::start() {
  if (options_.port == 0) {
    port_ = bind_to_any_port(options_.host);
  } else {
    port_ = bind_to_port(options_.host, options_.port) ? options_.port : -1;
  }
  if (port_ < 0)
    throw Error(
        fmt::format("cannot listen on {}, port {}: it is in use, or not this machine's; choose another with "
                    "--port or --host",
                    options_.host, options_.port));
  // The library's own backlog is 5.
  ::listen(listening_, kBacklog);
  listener_ = std::thread([this] {
    unpin_calling_thread();  // the connections' threads are as it is
    listen_after_bind();
  });
  while (!is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

std::string HttpServer::address() const {
  const bool v6 = options_.host.find(':') != std::string::npos;
  return v6 ? fmt::format("http://[{}]:{}", options_.host, port_) : fmt::format("http://{}:{}", options_.host, port_);
}

void HttpServer::close_door() {
  stopping_ = true;
  httplib::Server::stop();
}

void HttpServer::stop() {
  if (listener_.joinable()) listener_.join();
}

Connection& HttpServer::connection() { return *current_connection; }

bool HttpServer::process_and_close_socket(socket_t socket) {
  struct Count {
    std::atomic<int64_t>& open;
    int64_t now;
    explicit Count(std::atomic<int64_t>& of) : open(of), now(++of) {}
    Count(const Count&) = delete;
    Count& operator=(const Count&) = delete;
    ~Count() { --open; }
  } count(open_);
  Connection connection(socket, options_.limits);
  current_connection = &connection;
  if (count.now > options_.connections) {
    const std::string body = error_body(503, "the server has as many connections as it takes", "", "connections");
    connection.write(
        fmt::format("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: {}\r\n"
                    "Content-Length: {}\r\nConnection: close\r\n\r\n{}",
                    kJson, body.size(), body));
  } else {
    bool closed = false;
    for (size_t i = 1; !closed && connection.request_read() && connection.wait_for_request(stopping_); ++i) {
      request_start = std::chrono::steady_clock::now();
      const auto begin = [&](httplib::Request& request) {
        connection.begin_body(request);
        // Parts and compression of answers are of no use here, and cost memory and time.
        request.ranges.clear();
        request.headers.erase("Accept-Encoding");
      };
      if (!process_request(connection, stopping_ || i == kRequestsOfAConnection, closed, begin)) break;
    }
  }
  connection.finish();
  current_connection = nullptr;
  return true;
}

}  // namespace turboquant
