#include "quant/tcq16_kernel.h"

namespace turboquant {

void tcq16_search_avx512(int bits, EncodeBlock& block) { search_any<Avx512Simd>(bits, block); }

}  // namespace turboquant
