#include "quant/gemm_kernel.h"

namespace turboquant {

void gemm_block_avx2(const GemmBlock& block) { multiply_block<Avx2Simd>(block); }

}  // namespace turboquant
