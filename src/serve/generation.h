// The answers to one request as they come: text, probabilities, ends.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "generate/engine.h"
#include "serve/api_error.h"
#include "serve/connection.h"
#include "serve/service.h"

namespace turboquant {

struct GenerationRequest {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  int max_tokens = 0;
  int logprobs = -1;
  int choices = 1;
  std::vector<std::string> stop;
  bool ignore_end = false;                                       // end tokens are tokens like any other
  bool show_special = false;                                     // special tokens are text like any other
  std::string client;                                            // whose turn it is
  std::function<std::unique_ptr<TokenConstraint>()> constraint;  // one a choice
};

/// A token as clients see it; `bytes` are not always whole characters.
struct TokenText {
  std::string bytes;
  float logprob = 0;
  std::vector<std::pair<std::string, float>> top;
};

struct GenerationEvent {
  int choice = 0;
  std::string text;                    // may be empty: held back, or half a character
  std::optional<TokenText> token;      // if probabilities are wanted
  std::optional<EngineResult> result;  // the choice's end
};

/// Nobody reads the answer; its status only shows in metrics.
class ClientGone : public ApiError {
 public:
  ClientGone() : ApiError(499, "the client has gone") {}
};

class Generation {
 public:
  /// Hands its choices over to the engine. QueueFull, UsageError, Error of Engine::submit().
  Generation(Service& service, const GenerationRequest& request);
  /// Cancels what still runs.
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  /// The next event; nothing after the end of the last choice. ClientGone; ApiError: the engine failed, or the server
  /// is shutting down.
  std::optional<GenerationEvent> next(const Connection& connection);

  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t cached_tokens() const { return cached_tokens_; }
  int64_t completion_tokens() const { return completion_tokens_; }

 private:
  struct Channel;
  void submit(const GenerationRequest& request, int choice);
  void cancel();

  Service& service_;
  std::shared_ptr<Channel> channel_;
  std::vector<uint64_t> ids_;
  int running_ = 0;
  int64_t prompt_tokens_ = 0, cached_tokens_ = 0, completion_tokens_ = 0;
  std::chrono::steady_clock::time_point last_look_{};
};

/// "stop" or "length"
const char* finish_reason(const EngineResult& result);

}  // namespace turboquant
