#include "quant/gemm_kernel.h"

namespace turboquant {

void gemm_block_avx512(const GemmBlock& block) { multiply_block<Avx512Simd>(block); }

}  // namespace turboquant
