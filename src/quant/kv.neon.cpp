#include "quant/kv_kernel.h"

namespace turboquant {

void kv_search_neon(int bits, int64_t dim, const KvTable& table, KvEncodeLanes& lanes) {
  kv_search_any<NeonSimd>(bits, dim, table, lanes);
}

}  // namespace turboquant
