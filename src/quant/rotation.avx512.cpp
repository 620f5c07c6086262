#include "quant/hadamard_kernel.h"

namespace turboquant {

void hadamard_avx512(const HadamardArgs& args) { hadamard_blocks<Avx512Simd>(args); }

}  // namespace turboquant
