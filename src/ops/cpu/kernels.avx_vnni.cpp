// Products of bytes with AVX-VNNI, VNNI of 256 bits for processors without AVX-512; all other kernels of this level are
// AVX2's. Compiled, but not run on a processor that has it so far.
#include "ops/cpu/byte_products.h"

namespace turboquant {
namespace {

struct Dot {
  static __m256i add(__m256i sums, __m256i a, __m256i b) { return _mm256_dpbusd_avx_epi32(sums, a, b); }
};

}  // namespace

int64_t peak_int8_avx_vnni(int64_t repeats) { return peak_int8<Dot>(repeats); }

void tile_dot_avx_vnni(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  tile_dot<Dot, false>(bits, blocks, groups, x, out);
}

void tile_dot_repacked_avx_vnni(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  tile_dot<Dot, true>(bits, blocks, groups, x, out);
}

void panel_dot_avx_vnni(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
                        int32_t* out) {
  panel_dot<Dot>(panel0, panel1, groups, x, tokens, out);
}

}  // namespace turboquant
