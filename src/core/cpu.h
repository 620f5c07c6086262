// Which instructions this processor has. The environment variable TURBOQUANT_CPU=scalar|avx2|avx512 lowers the choice.
#pragma once

#include <string_view>

namespace turboquant {

enum class CpuLevel { scalar, avx2, avx512 };

/// The level that kernels are chosen by, fixed at the first call. avx2: AVX2, FMA, F16C. avx512: F, BW, DQ, VL, VBMI,
/// VNNI, and GFNI. Throws Error if TURBOQUANT_CPU names a level that is unknown or that the processor lacks.
CpuLevel cpu_level();

/// The best level that the processor has, whatever the environment says.
CpuLevel detected_cpu_level();

std::string_view name(CpuLevel level);

}  // namespace turboquant
