#include "quant/tcq16_kernel.h"

namespace turboquant {

void tcq16_search_neon(int bits, EncodeBlock& block) { search_any<NeonSimd>(bits, block); }

}  // namespace turboquant
