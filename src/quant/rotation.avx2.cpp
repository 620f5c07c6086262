#include "quant/hadamard_kernel.h"

namespace turboquant {

void hadamard_avx2(const HadamardArgs& args) { hadamard_blocks<Avx2Simd>(args); }

}  // namespace turboquant
