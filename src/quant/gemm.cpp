#include "quant/gemm.h"

#include <algorithm>
#include <memory>

#include "quant/gemm_kernel.h"

namespace turboquant {

void gemm_block_portable(const GemmBlock& block) { multiply_block<PortableSimd>(block); }

namespace {

struct alignas(64) Line {
  float values[16];
};

using MultiplyBlock = void (*)(const GemmBlock& block);

MultiplyBlock block_for(CpuLevel level) {
#if defined(__x86_64__)
  if (has_avx512(level)) return gemm_block_avx512;
  if (has_avx2(level)) return gemm_block_avx2;
#elif defined(__aarch64__)
  if (level != CpuLevel::scalar) return gemm_block_neon;
#else
  static_cast<void>(level);
#endif
  return gemm_block_portable;
}

int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Smaller blocks pack more often, but every thread should have a few.
int64_t block_size(const Gemm& product, const ThreadPool* pool) {
  int64_t size = kGemmBlock;
  if (pool == nullptr || pool->size() == 1) return size;
  while (size > kGemmBlock / 4 && pieces(product.m, size) * pieces(product.n, size) < 4 * pool->size()) size /= 2;
  return size;
}

}  // namespace

void gemm_at(CpuLevel level, const Gemm& product, ThreadPool* pool) {
  if (product.m <= 0 || product.n <= 0 || product.k <= 0) return;
  const MultiplyBlock multiply = block_for(level);
  const int64_t size = block_size(product, pool), columns = pieces(product.n, size);
  const auto multiply_blocks = [&](int64_t first, int64_t last) {
    const int64_t floats = gemm_scratch(std::min(size, product.m), std::min(size, product.n), product.k);
    const auto scratch = std::make_unique_for_overwrite<Line[]>(static_cast<size_t>(pieces(floats, 16)));
    for (int64_t index = first; index < last; ++index) {
      const int64_t i = index / columns * size, j = index % columns * size;
      if (product.upper && j < i) continue;
      multiply({product.a + i, product.lda, product.b + j, product.ldb, product.c + i * product.ldc + j, product.ldc,
                std::min(size, product.m - i), std::min(size, product.n - j), product.k, product.alpha,
                product.upper && i == j, scratch[0].values});
    }
  };
  const int64_t blocks = pieces(product.m, size) * columns;
  if (pool != nullptr) {
    pool->parallel_for(blocks, 1, multiply_blocks);
  } else {
    multiply_blocks(0, blocks);
  }
}

void gemm(const Gemm& product, ThreadPool* pool) { gemm_at(cpu_level(), product, pool); }

}  // namespace turboquant
