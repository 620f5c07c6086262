#include "core/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

namespace turboquant {
namespace {

std::atomic<bool> enabled = false;

}  // namespace

void set_progress_enabled(bool value) { enabled = value; }
bool progress_possible() { return isatty(STDERR_FILENO) != 0; }

Progress::Progress(std::string label, int64_t total, Unit unit)
    : label_(std::move(label)),
      total_(std::max<int64_t>(total, 1)),
      unit_(unit),
      visible_(enabled),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_) {}

Progress::~Progress() {
  if (visible_) fmt::print(stderr, "\r\033[K");
}

void Progress::advance(int64_t amount) {
  done_ += amount;
  const auto now = std::chrono::steady_clock::now();
  if (!visible_ || now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  draw();
}

void Progress::skip(int64_t amount) {
  done_ += amount;
  skipped_ += amount;
}

void Progress::draw() {
  constexpr int kWidth = 30;
  const double share = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  const double seconds = std::chrono::duration<double>(drawn_ - start_).count();
  const auto done_now = static_cast<double>(done_ - skipped_), to_do = static_cast<double>(total_ - done_);
  const double left = done_now > 0 ? std::max(0.0, seconds * to_do / done_now) : 0;
  const int filled = static_cast<int>(share * kWidth);
  const std::string amount = unit_ == Unit::bytes ? fmt::format("{:.1f}/{:.1f} MB", static_cast<double>(done_) * 1e-6,
                                                                static_cast<double>(total_) * 1e-6)
                                                  : fmt::format("{}/{}", done_, total_);
  fmt::print(stderr, "\r\033[K{} [{}{}] {:3.0f}% {} {:.0f} s left", label_, std::string(filled, '#'),
             std::string(kWidth - filled, '.'), 100 * share, amount, left);
  std::fflush(stderr);
}

}  // namespace turboquant
