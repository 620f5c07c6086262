#include "core/progress.h"

#include <gtest/gtest.h>

#include <thread>

namespace turboquant {
namespace {

std::string what_it_prints(bool enabled) {
  set_progress_enabled(enabled);
  testing::internal::CaptureStderr();
  {
    Progress progress("quantizing", 10);
    progress.advance();
    std::this_thread::sleep_for(std::chrono::milliseconds(120));  // bars are drawn ten times a second
    progress.advance(4);
  }
  set_progress_enabled(false);
  return testing::internal::GetCapturedStderr();
}

TEST(Progress, SilentWhenDisabled) { EXPECT_EQ(what_it_prints(false), ""); }

TEST(Progress, DrawsABarAndClearsIt) {
  const std::string text = what_it_prints(true);
  EXPECT_NE(text.find("quantizing ["), std::string::npos) << text;
  EXPECT_NE(text.find("5/10"), std::string::npos) << text;
  EXPECT_NE(text.find("50%"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("\r\033[K")) << text;
}

TEST(Progress, DoingMoreThanAnnouncedStaysAtTheEnd) {
  set_progress_enabled(true);
  testing::internal::CaptureStderr();
  {
    Progress progress("loading", 0, Progress::Unit::bytes);
    std::this_thread::sleep_for(std::chrono::milliseconds(120));
    progress.advance(3'000'000);
  }
  set_progress_enabled(false);
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("100%"), std::string::npos) << text;
  EXPECT_NE(text.find("3.0/0.0 MB"), std::string::npos) << text;
}

}  // namespace
}  // namespace turboquant
