#include "core/cpu.h"

#include <cstdlib>
#include <string>

#include "turboquant/error.h"

namespace turboquant {
namespace {

CpuLevel choose() {
  const CpuLevel best = detected_cpu_level();
  const char* wanted = std::getenv("TURBOQUANT_CPU");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (const CpuLevel level : {CpuLevel::scalar, CpuLevel::avx2, CpuLevel::avx512}) {
    if (name(level) != wanted) continue;
    if (level > best)
      throw Error("TURBOQUANT_CPU=" + std::string(wanted) + ": this processor has no such instructions (its best is " +
                  std::string(name(best)) + ")");
    return level;
  }
  throw Error("TURBOQUANT_CPU=" + std::string(wanted) + ": unknown; use scalar, avx2 or avx512");
}

}  // namespace

CpuLevel detected_cpu_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("gfni"))
    return CpuLevel::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuLevel::avx2;
#endif
  return CpuLevel::scalar;
}

CpuLevel cpu_level() {
  static const CpuLevel level = choose();
  return level;
}

std::string_view name(CpuLevel level) {
  switch (level) {
    case CpuLevel::avx512:
      return "avx512";
    case CpuLevel::avx2:
      return "avx2";
    case CpuLevel::scalar:
      break;
  }
  return "scalar";
}

}  // namespace turboquant
