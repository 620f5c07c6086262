#include "cli/ceilings.h"

#include <algorithm>
#include <atomic>

#include "core/clock.h"
#include "core/tensor.h"

namespace turboquant {
namespace {}  // namespace

double memory_read_rate(ThreadPool& pool, float (*sum)(const float* x, int64_t n), int passes) {
  constexpr int64_t kFloats = int64_t{1} << 29;  // 2 GiB
  constexpr int64_t kPiece = 1 << 18;            // 1 MiB
  Tensor buffer = Tensor::zeros(DType::f32, {kFloats});
  auto* x = buffer.data<float>();
  pool.parallel_for(kFloats, kPiece, [&](int64_t begin, int64_t end) { std::fill(x + begin, x + end, 1.0F); });
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    std::atomic<int64_t> counted = 0;
    const auto start = Clock::now();
    pool.parallel_for(kFloats, kPiece, [&](int64_t begin, int64_t end) {
      counted += static_cast<int64_t>(sum(x + begin, end - begin));
    });
    if (counted == kFloats) best = std::max(best, static_cast<double>(buffer.bytes()) / seconds_since(start));
  }
  return best;
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
