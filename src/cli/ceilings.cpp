#include "cli/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "core/tensor.h"

namespace turboquant {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

double memory_read_rate(ThreadPool& pool, int passes) {
  constexpr int64_t kWords = int64_t{1} << 28;  // 2 GiB
  constexpr int64_t kPiece = 1 << 17;           // 1 MiB
  Tensor buffer = Tensor::zeros(DType::u64, {kWords});
  auto* words = buffer.data<uint64_t>();
  pool.parallel_for(kWords, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) words[i] = static_cast<uint64_t>(i);
  });
  std::atomic<uint64_t> sink = 0;
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const auto start = Clock::now();
    pool.parallel_for(kWords, kPiece, [&](int64_t begin, int64_t end) {
      uint64_t sums[8] = {};
      for (int64_t i = begin; i < end; i += 8)
        for (int k = 0; k < 8; ++k) sums[k] += words[i + k];
      for (const uint64_t sum : sums) sink.fetch_add(sum, std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(kWords * 8) / seconds_since(start));
  }
  return sink == 0 ? 0 : best;
}

double peak_rate(ThreadPool& pool, int64_t (*loop)(int64_t repeats)) {
  constexpr int64_t kRepeats = 2'000'000;
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    std::atomic<int64_t> done = 0;
    const auto start = Clock::now();
    pool.run([&](int) { done += loop(kRepeats); });
    best = std::max(best, 2 * static_cast<double>(done) / seconds_since(start));
  }
  return best;
}

double fork_join_seconds(ThreadPool& pool) {
  constexpr int kRepeats = 2000;
  double best = 1;
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = Clock::now();
    for (int i = 0; i < kRepeats; ++i) pool.run([](int) {});
    best = std::min(best, seconds_since(start) / kRepeats);
  }
  return best;
}

}  // namespace turboquant
