#include "core/cpu.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "io/error_of.h"

namespace turboquant {
namespace {

// CTest runs this again for values of TURBOQUANT_CPU that exist and one that does not.
TEST(CpuLevel, FollowsTheEnvironment) {
  const char* variable = std::getenv("TURBOQUANT_CPU");
  const std::string wanted = variable == nullptr ? "" : variable;
  const CpuLevel best = detected_cpu_level();
  const std::vector<CpuLevel> available = available_cpu_levels();
  if (wanted.empty()) {
    EXPECT_EQ(cpu_level(), best);
  } else if (std::any_of(available.begin(), available.end(), [&](CpuLevel level) { return name(level) == wanted; })) {
    EXPECT_EQ(name(cpu_level()), wanted);
  } else if (wanted != "unknown") {
    const std::string text = error_of([] { cpu_level(); });
    EXPECT_HAS(text, "TURBOQUANT_CPU=" + wanted + ": this processor has no such instructions");
    EXPECT_HAS(text, name(best));
  } else {
    // Not only the first time.
    for (int i = 0; i < 2; ++i)
      EXPECT_EQ(error_of([] { cpu_level(); }),
                "TURBOQUANT_CPU=" + wanted + ": unknown; use scalar, avx2, avx_vnni, avx512, amx, neon or neon_i8mm");
  }
}

// From what every processor has to what few have; amx not without avx512.
TEST(CpuLevel, InOrder) {
  const std::vector<CpuLevel> available = available_cpu_levels();
  EXPECT_EQ(available.front(), CpuLevel::scalar);
  EXPECT_TRUE(std::is_sorted(available.begin(), available.end()));
  EXPECT_EQ(available, available_cpu_levels());  // asking for AMX a second time changes nothing
  const bool amx = available.back() == CpuLevel::amx;
  EXPECT_EQ(amx, std::count_if(available.begin(), available.end(), has_avx512) == 2);
}

}  // namespace
}  // namespace turboquant
