// Many texts at once with one model: requests join and leave the running batch at every step, prompts are read in
// pieces beside the others' tokens, and keys and values of what prompts have in common are kept. It works with tokens;
// text and protocols stand above. What a request gets is, to the last bit, what it would get alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "turboquant/error.h"
#include "turboquant/language_model.h"

namespace turboquant {

/// Which tokens may come next; one a request. Calls come one at a time but from changing threads, and beside those of
/// other requests' constraints: what several share must not be written to.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  /// Sets the logits of tokens that may not come to -infinity.
  virtual void mask(std::span<float> logits) = 0;
  /// The token that was chosen; not called for the end token.
  virtual void accept(int32_t token) = 0;
  /// Nothing may come any more but the end: the request then ends by itself (Finish::stop).
  virtual bool finished() const = 0;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

/// One generated token.
struct EngineToken {
  int32_t token = 0;
  float logprob = 0;              // of what the model gave, before sampling changed it; if EngineRequest::logprobs >= 0
  std::vector<TokenLogprob> top;  // EngineRequest::logprobs of them, the likeliest first
};

/// stop: an end token, the constraint's end, or on_token said so; length: max_tokens, the context or the memory is
/// full.
enum class Finish { stop, length, cancelled, error };

struct EngineResult {
  Finish finish = Finish::stop;
  std::string error;  // of Finish::error: one line
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;      // of the prompt, that were not read again
  int64_t completion_tokens = 0;  // given to on_token
  double queue_seconds = 0;       // until the prompt was begun
  double prefill_seconds = 0;     // from there to the first token
  double decode_seconds = 0;      // of all further tokens
};

struct EngineRequest {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  int max_tokens = 256;     // 0: only reads the prompt, which the prefix cache then has
  int logprobs = -1;        // -1: none; else so many of the likeliest tokens beside each
  bool ignore_end = false;  // end tokens are tokens like any other
  std::unique_ptr<TokenConstraint> constraint;
  std::string client;  // requests are taken in turn from each client

  /// Called by the engine's thread for each token but the end token; false: stop here (Finish::stop). All of the batch
  /// waits for it: it should hand over and return. It may call submit() and cancel(). What it throws ends the request
  /// (Finish::error).
  std::function<bool(const EngineToken&)> on_token;
  /// Called by the engine's thread once, last, whatever happens after submit() returned. What it throws is lost.
  std::function<void(const EngineResult&)> on_finish;
};

/// As many requests wait as may.
class QueueFull : public Error {
 public:
  QueueFull(const std::string& what, int seconds) : Error(what), retry_after_seconds(seconds) {}
  int retry_after_seconds;  // by the speed of the last requests
};

struct EngineOptions {
  int parallel = 32;         // requests in the running batch
  int queue = 256;           // requests that wait
  uint64_t kv_memory = 0;    // bytes of running caches and of the prefix cache; 0: a quarter of the machine's memory
  bool prefix_cache = true;  // whether what prompts have in common is kept
  std::string prompt_cache_dir;                     // where the prefix cache survives a restart; empty: it does not
  uint64_t prompt_cache_bytes = uint64_t{1} << 30;  // the most that is kept there
  int64_t prefill_chunk = 0;  // tokens of prompts in a step beside decoding; 0: by measured speed, so that a step takes
                              // less than 200 ms longer than without
  std::function<void(const std::string&)> on_message;  // what there is to warn of; from the engine's thread
};

struct EngineStatistics {
  int64_t running = 0, waiting = 0;                                 // now
  int64_t stopped = 0, full_length = 0, cancelled = 0, failed = 0;  // requests, by how they ended
  int64_t refused = 0;                                              // QueueFull
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  int64_t steps = 0;
  double busy_seconds = 0;                     // in steps
  int64_t preempted = 0;                       // requests that gave their memory back for a while
  uint64_t kv_bytes = 0, kv_limit = 0;         // shared memory counts once
  int64_t prefixes = 0;                        // kept
  int64_t prefix_hits = 0, prefix_misses = 0;  // requests
  int64_t prefixes_evicted = 0;
};

class Engine {
 public:
  /// Starts its thread, which alone uses the model from then on, but for its tokenizer. UsageError: options out of
  /// range.
  Engine(LanguageModel& model, const EngineOptions& options);
  /// Cancels what runs and waits, and keeps the prefix cache in prompt_cache_dir.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Returns an id. QueueFull; UsageError: an empty prompt, a token outside the vocabulary, sampling or a limit out of
  /// range; Error: a prompt as long as the context, or one whose keys and values kv_memory can never hold; draining.
  uint64_t submit(EngineRequest request);
  /// Ends a request within one step (Finish::cancelled). One that has ended, or never was, is left alone.
  void cancel(uint64_t id);
  /// The mean of the last hidden states of all tokens, of length 1: [hidden_size]. Read in pieces between the steps;
  /// blocks. Errors as those of submit().
  std::vector<float> embed(std::span<const int32_t> tokens);
  EngineStatistics statistics() const;
  /// From now on submit() and embed() throw Error. Returns when all requests have ended (true), or after `seconds`.
  bool drain(double seconds);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace turboquant
