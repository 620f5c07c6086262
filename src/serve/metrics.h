// Counters and histograms of the server, as Prometheus reads them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "generate/engine.h"

namespace turboquant {

/// Seconds in buckets whose limits double, from a millisecond on.
class Histogram {
 public:
  void add(double seconds);
  /// Its lines, under a name that is already explained.
  void print(std::string& out, const std::string& name) const;

 private:
  static constexpr int kBuckets = 18;  // to 131 s
  std::array<int64_t, kBuckets + 1> counts_{};
  double sum_ = 0;
};

/// May be used from several threads at once.
class Metrics {
 public:
  void add_request(const std::string& route, int status, double seconds);
  void add_first_token(double seconds);
  void add_next_token(double seconds);
  void add_disconnect();
  std::string print(const EngineStatistics& engine, int64_t connections) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> requests_;
  int64_t disconnects_ = 0;
  Histogram request_, first_, next_;
};

}  // namespace turboquant
