#include "serve/api_error.h"

#include <new>
#include <nlohmann/json.hpp>

#include "generate/engine.h"

namespace turboquant {
namespace {

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return status < 500 ? "invalid_request_error" : status == 503 ? "unavailable_error" : "server_error";
  }
}

nlohmann::ordered_json or_null(const std::string& text) {
  return text.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(text);
}

}  // namespace

ApiError bad_request(const std::string& message, std::string param, std::string code) {
  return {400, message, std::move(param), std::move(code)};
}

std::string error_body(int status, const std::string& message, const std::string& param, const std::string& code) {
  nlohmann::ordered_json body;
  body["error"] = {{"message", message}, {"type", type_of(status)}, {"param", or_null(param)}, {"code", or_null(code)}};
  return body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string error_body(const ApiError& error) {
  return error_body(error.status, error.what(), error.param, error.code);
}

ApiError api_error_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const ApiError& known) {
    return known;
  } catch (const QueueFull& full) {
    ApiError result(429, full.what(), "", "queue_full");
    result.retry_after_seconds = full.retry_after_seconds;
    return result;
  } catch (const UsageError& usage) {
    return bad_request(usage.what());
  } catch (const std::bad_alloc&) {
    return {500, "out of memory"};
  } catch (const std::exception&) {
    return {500, "the server failed at this request; its log says why"};
  }
}

}  // namespace turboquant
