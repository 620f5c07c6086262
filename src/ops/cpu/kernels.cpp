#include "ops/cpu/kernels.h"

namespace turboquant {

const Kernels& kernels(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::amx) return kAmxKernels;
  if (level == CpuLevel::avx512) return kAvx512Kernels;
  if (level == CpuLevel::avx_vnni) return kAvxVnniKernels;
  if (level == CpuLevel::avx2) return kAvx2Kernels;
#elif defined(__aarch64__)
  if (level == CpuLevel::neon_i8mm) return kNeonI8mmKernels;
  if (level == CpuLevel::neon) return kNeonKernels;
#endif
  (void)level;
  return kScalarKernels;
}

const Kernels& kernels() {
  static const Kernels& chosen = kernels(cpu_level());
  return chosen;
}

}  // namespace turboquant
