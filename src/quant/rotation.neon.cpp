#include "quant/hadamard_kernel.h"

namespace turboquant {

void hadamard_neon(const HadamardArgs& args) { hadamard_blocks<NeonSimd>(args); }

}  // namespace turboquant
