// Errors as OpenAI's clients understand them: a status, and a body {"error": {"message", "type", "param", "code"}}.
#pragma once

#include <exception>
#include <string>

#include "turboquant/error.h"

namespace turboquant {

/// What a request is answered with instead of a result. Its message never quotes the request's text.
class ApiError : public Error {
 public:
  ApiError(int status, const std::string& message, std::string param = "", std::string code = "")
      : Error(message), status(status), param(std::move(param)), code(std::move(code)) {}
  int status;
  std::string param, code;  // empty: null
  int retry_after_seconds = 0;
};

/// 400 for what a client can mend; `param`: the member of the body that is wrong.
ApiError bad_request(const std::string& message, std::string param = "", std::string code = "");

/// The body of an error of this status.
std::string error_body(int status, const std::string& message, const std::string& param = "",
                       const std::string& code = "");
std::string error_body(const ApiError& error);

/// What an exception of the library is to a client: a usage error is 400, a full queue 429, the rest 500, without the
/// text of what is not meant for clients.
ApiError api_error_of(const std::exception_ptr& error);

}  // namespace turboquant
