#include "quant/tcq16_kernel.h"

namespace turboquant {

void tcq16_search_avx2(int bits, EncodeBlock& block) { search_any<Avx2Simd>(bits, block); }

}  // namespace turboquant
