// Which instructions this processor has. The environment variable TURBOQUANT_CPU, a level's name, lowers the choice.
#pragma once

#include <string_view>
#include <vector>

namespace turboquant {

/// x86-64 has scalar, avx2 (AVX2, FMA, F16C), avx_vnni (dot products of bytes, too: AVX-VNNI), avx512 (F, BW, DQ, VL,
/// VBMI, VNNI, and GFNI) and amx (matrix products of bytes, too: AMX-TILE, AMX-INT8); 64-bit ARM has scalar, neon (dot
/// products of bytes: ARMv8.2 FEAT_DotProd) and neon_i8mm (matrix products of bytes, too: FEAT_I8MM).
enum class CpuLevel { scalar, avx2, avx_vnni, avx512, amx, neon, neon_i8mm };

/// Whether code for avx512 runs at this level: all that is not a matrix product of bytes is that code at amx, too.
constexpr bool has_avx512(CpuLevel level) { return level == CpuLevel::avx512 || level == CpuLevel::amx; }

/// Whether code for avx2 runs at this level, and is what there is where none is for more.
constexpr bool has_avx2(CpuLevel level) { return level >= CpuLevel::avx2 && level <= CpuLevel::amx; }

/// The level that kernels are chosen by, fixed at the first call. Throws Error if TURBOQUANT_CPU names a level that is
/// unknown or that the processor lacks.
CpuLevel cpu_level();

/// The levels that the processor has, best last, whatever the environment says. The first call asks Linux for the
/// permission to use AMX, which is the whole process's.
std::vector<CpuLevel> available_cpu_levels();
/// The last of them.
CpuLevel detected_cpu_level();

std::string_view name(CpuLevel level);

}  // namespace turboquant
