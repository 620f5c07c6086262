#include "generate/sequence.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace turboquant {
namespace {

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

Sequence::Sequence(uint64_t number, EngineRequest&& wanted)
    : id(number), request(std::move(wanted)), client(request.client), text(request.prompt), sampler_(request.sampling) {
  result.prompt_tokens = prompt_tokens();
}

EngineToken Sequence::describe(std::span<const float> logits, int32_t token) const {
  EngineToken described{token, 0, {}};
  if (request.logprobs < 0) return described;
  const double sum = log_sum_exp(logits);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - sum); };
  described.logprob = logprob(logits[static_cast<size_t>(token)]);
  std::vector<TokenValue> top = largest_tokens(logits, static_cast<size_t>(request.logprobs));
  std::stable_sort(top.begin(), top.end(), [](const auto& a, const auto& b) { return a.value > b.value; });
  for (const TokenValue& one : top) described.top.push_back({one.token, logprob(one.value)});
  return described;
}

void Sequence::choose(std::span<const float> logits) {
  failure_ = nullptr;
  try {
    std::span<const float> allowed = logits;
    if (request.constraint) {
      masked_.assign(logits.begin(), logits.end());
      request.constraint->mask(masked_);
      allowed = masked_;
      if (largest(allowed) == -std::numeric_limits<float>::infinity())
        throw Error("no token may come next: the constraint forbids all of them");
    }
    chosen_ = describe(logits, sampler_.sample(allowed, text, request.prompt.size()));
  } catch (...) {
    failure_ = std::current_exception();
  }
}

bool Sequence::end(Finish how) {
  result.finish = how;
  return true;
}

bool Sequence::deliver(const std::unordered_set<int32_t>& end_tokens, int64_t max_context) {
  if (failure_) std::rethrow_exception(failure_);
  if (first_token == Clock::time_point()) first_token = Clock::now();
  if (!request.ignore_end && end_tokens.contains(chosen_.token)) return end(Finish::stop);
  text.push_back(chosen_.token);
  ++result.completion_tokens;
  if (request.constraint) request.constraint->accept(chosen_.token);
  if (request.on_token && !request.on_token(chosen_)) return end(Finish::stop);
  if (request.constraint && request.constraint->finished()) return end(Finish::stop);
  if (result.completion_tokens >= request.max_tokens || length() >= max_context) return end(Finish::length);
  return false;
}

void Sequence::finish(Finish how, const std::string& error) {
  const Clock::time_point now = Clock::now();
  const bool waited_only = started == Clock::time_point(), wrote = first_token != Clock::time_point();
  result.finish = how;
  result.error = error;
  result.queue_seconds = seconds_between(submitted, waited_only ? now : started);
  if (!waited_only) result.prefill_seconds = seconds_between(started, wrote ? first_token : now);
  if (wrote) result.decode_seconds = seconds_between(first_token, now);
  if (!request.on_finish) return;
  try {
    request.on_finish(result);
  } catch (...) {  // the others go on
  }
}

}  // namespace turboquant
