// AVX2 kernels.
#include "ops/cpu/byte_products.h"
#include "ops/cpu/delta_chunk.h"
#include "ops/cpu/delta_kernels.h"
#include "ops/cpu/float_kernels.h"

namespace turboquant {
namespace {

/// vpmaddubsw sums pairs in 16 bits, which bytes within 127 cannot overflow.
struct Dot {
  static __m256i add(__m256i sums, __m256i a, __m256i b) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
  }
};

constexpr Kernels kTable = {
    .level = CpuLevel::avx2,
    .peak_int8 = peak_int8<Dot>,
    .peak_f32 = peak_f32,
    .stream_sum = stream_sum,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .clamped_swiglu = clamped_swiglu,
    .sigmoid_gate = sigmoid_gate,
    .add = add,
    .rope = rope,
    .softmax = softmax,
    .quantize = quantize,
    .dense_f32 = dense<LoadF32>,
    .dense_f16 = dense<LoadF16>,
    .dense_bf16 = dense<LoadBF16>,
    .tile_dot = tile_dot<Dot, false>,
    .tile_dots = nullptr,
    .shared_tokens = 1,
    .tile_panel = tile_panel<false>,
    .panel_dot = panel_dot<Dot>,
    .repack = repack,
    .tile_dot_repacked = tile_dot<Dot, true>,
    .tile_panel_repacked = tile_panel<true>,
    .bias = 0,
    .scale_tile = scale_tile,
    .attend_page_f16 = attend_page<LoadF16>,
    .attend_page_f32 = attend_page<LoadF32>,
    .attend_blocks = attend_blocks_avx2,
    .attend_merge = attend_merge,
    .conv1d = conv1d,
    .gated_delta = gated_delta,
};

/// The same but for products of bytes.
constexpr Kernels with_vnni(Kernels table) {
  table.level = CpuLevel::avx_vnni;
  table.peak_int8 = peak_int8_avx_vnni;
  table.tile_dot = tile_dot_avx_vnni;
  table.panel_dot = panel_dot_avx_vnni;
  table.tile_dot_repacked = tile_dot_repacked_avx_vnni;
  return table;
}

}  // namespace

constinit const Kernels kAvx2Kernels = kTable;
constinit const Kernels kAvxVnniKernels = with_vnni(kTable);

}  // namespace turboquant
