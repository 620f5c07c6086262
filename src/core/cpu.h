// Which instructions this processor has. The environment variable TURBOQUANT_CPU, a level's name, lowers the choice.
#pragma once

#include <string_view>
#include <vector>

namespace turboquant {

/// x86-64 has scalar, avx2 (AVX2, FMA, F16C) and avx512 (F, BW, DQ, VL, VBMI, VNNI, and GFNI); 64-bit ARM has scalar,
/// neon (dot products of bytes: ARMv8.2 FEAT_DotProd) and neon_i8mm (matrix products of bytes, too: FEAT_I8MM).
enum class CpuLevel { scalar, avx2, avx512, neon, neon_i8mm };

/// The level that kernels are chosen by, fixed at the first call. Throws Error if TURBOQUANT_CPU names a level that is
/// unknown or that the processor lacks.
CpuLevel cpu_level();

/// The levels that the processor has, best last, whatever the environment says.
std::vector<CpuLevel> available_cpu_levels();
/// The last of them.
CpuLevel detected_cpu_level();

std::string_view name(CpuLevel level);

}  // namespace turboquant
