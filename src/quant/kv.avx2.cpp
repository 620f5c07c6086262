#include "quant/kv_kernel.h"

namespace turboquant {

void kv_search_avx2(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes) {
  kv_search_any<Avx2Simd>(bits, dim, table, lanes);
}

}  // namespace turboquant
