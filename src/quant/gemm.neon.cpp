#include "quant/gemm_kernel.h"

namespace turboquant {

void gemm_block_neon(const GemmBlock& block) { multiply_block<NeonSimd>(block); }

}  // namespace turboquant
