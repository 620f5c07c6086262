// One block of a product as a template over the vectors of quant/simd.h, and its compiled versions.
#pragma once

#include <cstdint>

#include "quant/simd.h"

namespace turboquant {

// The largest block of C, a multiple of all register tiles. With kGemmDepth rows of A and B it takes 0.6 MB: the
// second-level cache of the processors at hand has 1 MB or more.
inline constexpr int64_t kGemmBlock = 192;
inline constexpr int64_t kGemmDepth = 256;

/// quant/gemm.h's product for at most kGemmBlock rows and columns of C.
struct GemmBlock {
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  int64_t m, n, k;
  float alpha;
  bool upper;     // tiles that lie below the diagonal of the block are left out
  float* packed;  // gemm_scratch(m, n, k) floats at a multiple of 64 bytes
};

// A panel's floats: `width` columns of `depth` rows. One line more than that, or panels would lie powers of two apart
// and share a few sets of the first-level cache while they are written side by side.
constexpr int64_t gemm_panel_floats(int64_t width, int64_t depth) { return width * depth + 16; }

/// Enough for the panels of any version.
constexpr int64_t gemm_scratch(int64_t m, int64_t n, int64_t k) {
  const int64_t depth = k < kGemmDepth ? k : kGemmDepth;
  // Versions pad to 4 or 8 rows and 12, 24 or 48 columns, and the narrowest panels have the most lines between them.
  return depth * (m + 8 + n + 48) + 16 * (m / 4 + n / 12 + 2) + 32;
}

void gemm_block_portable(const GemmBlock& block);
void gemm_block_avx2(const GemmBlock& block);
void gemm_block_avx512(const GemmBlock& block);
void gemm_block_neon(const GemmBlock& block);

namespace {

// The tile of C in registers: 24 of 32 registers with AVX-512, 12 of 16 otherwise.
template <class Simd>
inline constexpr int kTileHeight = Simd::kWidth == 16 ? 8 : 4;
inline constexpr int kTileVectors = 3;

// Rows [0, depth) of x [depth, count] as panels of `width` columns; the last one is filled up with zeros.
template <int width>
inline void pack_panels(const float* x, int64_t ld, int64_t count, int64_t depth, float* panels) {
  const int64_t full = count / width * width, stride = gemm_panel_floats(width, depth);
  for (int64_t k = 0; k < depth; ++k, x += ld) {
    float* out = panels + k * width;
    for (int64_t i = 0; i < full; i += width, out += stride) std::memcpy(out, x + i, sizeof(float) * width);
    if (full == count) continue;
    for (int64_t i = 0; i < width; ++i) out[i] = full + i < count ? x[full + i] : 0.0F;
  }
}

// c [kTileHeight, kTileVectors vectors] += alpha * a^T b of two panels.
template <class Simd>
inline void multiply_panels(const float* a, const float* b, int64_t depth, float alpha, float* c, int64_t ldc) {
  using Float = typename Simd::Float;
  constexpr int kHeight = kTileHeight<Simd>;
  Float sum[kHeight][kTileVectors];
  for (int i = 0; i < kHeight; ++i)
    for (int j = 0; j < kTileVectors; ++j) sum[i][j] = Simd::set(0);
  for (int64_t k = 0; k < depth; ++k, a += kHeight, b += kTileVectors * Simd::kWidth) {
    Float row[kTileVectors];
    for (int j = 0; j < kTileVectors; ++j) row[j] = Simd::load(b + j * Simd::kWidth);
    for (int i = 0; i < kHeight; ++i) {
      const Float factor = Simd::set(a[i]);
      for (int j = 0; j < kTileVectors; ++j) sum[i][j] = Simd::multiply_add(factor, row[j], sum[i][j]);
    }
  }
  const Float scale = Simd::set(alpha);
  for (int i = 0; i < kHeight; ++i)
    for (int j = 0; j < kTileVectors; ++j) {
      float* out = c + i * ldc + j * Simd::kWidth;
      Simd::store(out, Simd::multiply_add(scale, sum[i][j], Simd::load(out)));
    }
}

template <class Simd>
void multiply_block(const GemmBlock& block) {
  constexpr int kHeight = kTileHeight<Simd>, kWidth = kTileVectors * Simd::kWidth;
  for (int64_t k = 0; k < block.k; k += kGemmDepth) {
    const int64_t depth = block.k - k < kGemmDepth ? block.k - k : kGemmDepth;
    const int64_t a_stride = gemm_panel_floats(kHeight, depth), b_stride = gemm_panel_floats(kWidth, depth);
    float* b_panels = block.packed;
    float* a_panels = b_panels + (block.n + kWidth - 1) / kWidth * b_stride;
    pack_panels<kWidth>(block.b + k * block.ldb, block.ldb, block.n, depth, b_panels);
    pack_panels<kHeight>(block.a + k * block.lda, block.lda, block.m, depth, a_panels);
    for (int64_t i = 0; i < block.m; i += kHeight)
      for (int64_t j = 0; j < block.n; j += kWidth) {
        if (block.upper && j + kWidth <= i) continue;
        const float* a = a_panels + i / kHeight * a_stride;
        const float* b = b_panels + j / kWidth * b_stride;
        float* c = block.c + i * block.ldc + j;
        const int64_t height = block.m - i, width = block.n - j;
        if (height >= kHeight && width >= kWidth) {
          multiply_panels<Simd>(a, b, depth, block.alpha, c, block.ldc);
          continue;
        }
        // At the edge the same on a copy, so that every element sees the same operations.
        alignas(64) float tile[kHeight * kWidth] = {};
        for (int64_t r = 0; r < kHeight && r < height; ++r)
          for (int64_t s = 0; s < kWidth && s < width; ++s) tile[r * kWidth + s] = c[r * block.ldc + s];
        multiply_panels<Simd>(a, b, depth, block.alpha, tile, kWidth);
        for (int64_t r = 0; r < kHeight && r < height; ++r)
          for (int64_t s = 0; s < kWidth && s < width; ++s) c[r * block.ldc + s] = tile[r * kWidth + s];
      }
  }
  Simd::finish();
}

}  // namespace
}  // namespace turboquant
