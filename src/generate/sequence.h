// A request of an engine on its way: what it has read and written, and how its next token is chosen.
#pragma once

#include <exception>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "cache/cache.h"
#include "core/clock.h"
#include "generate/engine.h"
#include "models/sampler.h"

namespace turboquant {

class Sequence {
 public:
  /// UsageError: sampling out of range.
  Sequence(uint64_t number, EngineRequest&& wanted);

  int64_t length() const { return static_cast<int64_t>(text.size()); }
  int64_t prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()); }
  /// Tokens that the cache has not read.
  int64_t pending() const { return length() - cache.length(); }
  /// Whether only the last token is left to read, that was chosen in the last step.
  bool decoding() const { return pending() == 1; }
  /// The longest part of the text that another cache may give: the last token's logits are wanted.
  std::span<const int32_t> findable() const { return std::span(text).first(text.size() - 1); }

  /// Chooses the next token; an exception is kept for deliver(). May run beside other sequences'.
  void choose(std::span<const float> logits);
  /// Takes the chosen token to the text and hands it over. True if that was the last one: `result` says why.
  bool deliver(const std::unordered_set<int32_t>& end_tokens, int64_t max_context);
  /// Ends it; calls on_finish.
  void finish(Finish how, const std::string& error = "");

  const uint64_t id;
  EngineRequest request;
  const std::string client;
  EngineResult result;
  std::vector<int32_t> text;  // prompt and answer
  Cache cache;                // of its first tokens
  std::set<int64_t> cuts;     // lengths at which the cache is to be kept for others
  bool begun = false;         // has looked for what others have read
  bool parked = false;        // gave its memory back, waits for some
  bool suspect = false;       // was in a step that failed: runs alone until it has made one
  Clock::time_point submitted = Clock::now(), started, first_token;

 private:
  bool end(Finish how);
  EngineToken describe(std::span<const float> logits, int32_t token) const;

  Sampler sampler_;
  std::vector<float> masked_;
  EngineToken chosen_;
  std::exception_ptr failure_;
};

}  // namespace turboquant
