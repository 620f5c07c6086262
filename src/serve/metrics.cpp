#include "serve/metrics.h"

#include <fmt/format.h>

#include <string_view>

namespace turboquant {
namespace {

constexpr double kFirstLimit = 1e-3;

void explain(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  out += fmt::format("# HELP turboquant_{} {}\n# TYPE turboquant_{} {}\n", name, help, name, type);
}

template <typename Value>
void one(std::string& out, std::string_view name, std::string_view type, std::string_view help, Value value) {
  explain(out, name, type, help);
  out += fmt::format("turboquant_{} {}\n", name, value);
}

void print_engine(std::string& out, const EngineStatistics& engine) {
  one(out, "requests_running", "gauge", "Requests in the batch", engine.running);
  one(out, "requests_waiting", "gauge", "Requests in the queue", engine.waiting);
  explain(out, "generations_total", "counter", "Generations by how they ended");
  for (const auto& [name, count] : {std::pair{"stop", engine.stopped}, std::pair{"length", engine.full_length},
                                    std::pair{"cancelled", engine.cancelled}, std::pair{"error", engine.failed},
                                    std::pair{"refused", engine.refused}})
    out += fmt::format("turboquant_generations_total{{finish=\"{}\"}} {}\n", name, count);
  one(out, "prompt_tokens_total", "counter", "Tokens of prompts", engine.prompt_tokens);
  one(out, "cached_tokens_total", "counter", "Tokens of prompts that were known", engine.cached_tokens);
  one(out, "generated_tokens_total", "counter", "Tokens written", engine.generated_tokens);
  one(out, "steps_total", "counter", "Steps of the model", engine.steps);
  one(out, "busy_seconds_total", "counter", "Time in steps of the model", engine.busy_seconds);
  one(out, "preempted_total", "counter", "Requests that gave their memory back for a while", engine.preempted);
  one(out, "kv_bytes", "gauge", "Memory of keys and values", engine.kv_bytes);
  one(out, "kv_limit_bytes", "gauge", "And the most that they may have", engine.kv_limit);
  one(out, "prefixes", "gauge", "Beginnings of prompts that are kept", engine.prefixes);
  one(out, "prefix_hits_total", "counter", "Prompts that began with one", engine.prefix_hits);
  one(out, "prefix_misses_total", "counter", "Prompts that did not", engine.prefix_misses);
  one(out, "prefixes_evicted_total", "counter", "Beginnings that made room for others", engine.prefixes_evicted);
}

}  // namespace

void Histogram::add(double seconds) {
  sum_ += seconds;
  size_t bucket = 0;
  for (double limit = kFirstLimit; seconds > limit && bucket < kBuckets; limit *= 2) ++bucket;
  ++counts_[bucket];
}

void Histogram::print(std::string& out, const std::string& name) const {
  int64_t count = 0;
  double limit = kFirstLimit;
  for (size_t i = 0; i < kBuckets; ++i, limit *= 2) {
    count += counts_[i];
    out += fmt::format("turboquant_{}_bucket{{le=\"{:g}\"}} {}\n", name, limit, count);
  }
  count += counts_[kBuckets];
  out += fmt::format("turboquant_{0}_bucket{{le=\"+Inf\"}} {1}\nturboquant_{0}_sum {2}\nturboquant_{0}_count {1}\n",
                     name, count, sum_);
}

void Metrics::add_request(const std::string& route, int status, double seconds) {
  const std::lock_guard lock(mutex_);
  ++requests_[{route, status}];
  request_.add(seconds);
}

void Metrics::add_first_token(double seconds) {
  const std::lock_guard lock(mutex_);
  first_.add(seconds);
}

void Metrics::add_next_token(double seconds) {
  const std::lock_guard lock(mutex_);
  next_.add(seconds);
}

void Metrics::add_disconnect() {
  const std::lock_guard lock(mutex_);
  ++disconnects_;
}

std::string Metrics::print(const EngineStatistics& engine, int64_t connections) const {
  const std::lock_guard lock(mutex_);
  std::string out;
  explain(out, "http_requests_total", "counter", "Requests by path and status");
  for (const auto& [key, count] : requests_)
    out +=
        fmt::format("turboquant_http_requests_total{{path=\"{}\",status=\"{}\"}} {}\n", key.first, key.second, count);
  one(out, "http_connections", "gauge", "Open connections", connections);
  one(out, "client_disconnects_total", "counter", "Clients that went before their answer was complete", disconnects_);
  const auto histogram = [&](const std::string& name, std::string_view help, const Histogram& values) {
    explain(out, name, "histogram", help);
    values.print(out, name);
  };
  histogram("request_seconds", "Time of a request", request_);
  histogram("time_to_first_token_seconds", "From a request's arrival to its first token", first_);
  histogram("inter_token_seconds", "Between two tokens of an answer", next_);
  print_engine(out, engine);
  return out;
}

}  // namespace turboquant
