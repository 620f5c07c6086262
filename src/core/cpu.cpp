#include "core/cpu.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "turboquant/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace turboquant {
namespace {

#if defined(__aarch64__)
struct ArmFeatures {
  bool dot_product = false, matrix_product = false;  // of bytes
};

ArmFeatures arm_features() {
#if defined(__linux__)
  return {(getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0, (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0};
#elif defined(__APPLE__)
  const auto has = [](const char* feature) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  return {has("hw.optional.arm.FEAT_DotProd"), has("hw.optional.arm.FEAT_I8MM")};
#else
  return {};
#endif
}
#endif

#if defined(__x86_64__)
bool avx_vnni() {
  constexpr unsigned kAvxVnni = 1U << 4;  // of EAX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & kAvxVnni) != 0;
}

bool amx_permitted() {
#if defined(__linux__)
  constexpr unsigned kTile = 1U << 24, kInt8 = 1U << 25;  // of EDX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kTile) == 0 || (edx & kInt8) == 0) return false;
  // Linux keeps the 8 KB of tiles for processes that ask for them (5.16 and newer; the kernel's Documentation/arch/x86/
  // xstate.rst): ARCH_REQ_XCOMP_PERM, which older headers lack, for the feature XTILEDATA.
  constexpr int64_t kRequestPermission = 0x1023, kTileData = 18;
  static const bool permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
#else
  return false;
#endif
}
#endif

CpuLevel choose() {
  const std::vector<CpuLevel> available = available_cpu_levels();
  const CpuLevel best = available.back();
  const char* wanted = std::getenv("TURBOQUANT_CPU");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (const CpuLevel level : {CpuLevel::scalar, CpuLevel::avx2, CpuLevel::avx_vnni, CpuLevel::avx512, CpuLevel::amx,
                               CpuLevel::neon, CpuLevel::neon_i8mm}) {
    if (name(level) != wanted) continue;
    if (std::find(available.begin(), available.end(), level) == available.end())
      throw Error("TURBOQUANT_CPU=" + std::string(wanted) + ": this processor has no such instructions (its best is " +
                  std::string(name(best)) + ")");
    return level;
  }
  throw Error("TURBOQUANT_CPU=" + std::string(wanted) +
              ": unknown; use scalar, avx2, avx_vnni, avx512, amx, neon or neon_i8mm");
}

}  // namespace

std::vector<CpuLevel> available_cpu_levels() {
  std::vector<CpuLevel> levels = {CpuLevel::scalar};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    levels.push_back(CpuLevel::avx2);
    if (avx_vnni()) levels.push_back(CpuLevel::avx_vnni);
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("gfni")) {
    levels.push_back(CpuLevel::avx512);
    if (amx_permitted()) levels.push_back(CpuLevel::amx);
  }
#elif defined(__aarch64__)
  const ArmFeatures features = arm_features();
  if (features.dot_product) levels.push_back(CpuLevel::neon);
  if (features.dot_product && features.matrix_product) levels.push_back(CpuLevel::neon_i8mm);
#endif
  return levels;
}

CpuLevel detected_cpu_level() { return available_cpu_levels().back(); }

CpuLevel cpu_level() {
  static const CpuLevel level = choose();
  return level;
}

std::string_view name(CpuLevel level) {
  switch (level) {
    case CpuLevel::neon_i8mm:
      return "neon_i8mm";
    case CpuLevel::neon:
      return "neon";
    case CpuLevel::amx:
      return "amx";
    case CpuLevel::avx512:
      return "avx512";
    case CpuLevel::avx_vnni:
      return "avx_vnni";
    case CpuLevel::avx2:
      return "avx2";
    case CpuLevel::scalar:
      break;
  }
  return "scalar";
}

}  // namespace turboquant
