// Products of single-precision matrices, C += alpha A^T B, at the speed of the processor's vectors: what the Hessians
// of calibration (quant/hessian.h) and the feedback of LDLQ (quant/ldlq.h) need and nothing more. (Products with a
// model's weights are ops/'s.)
//
// Blocks of C that fit the second-level cache, operands packed in panels for a register tile: K. Goto and R. A. van de
// Geijn, "Anatomy of high-performance matrix multiplication", 2008.
#pragma once

#include <cstdint>

#include "core/cpu.h"
#include "core/thread_pool.h"

namespace turboquant {

/// Columns of a triangular system that a thread solves for at a time.
inline constexpr int64_t kSolvedColumns = 192;

/// c [m, n] += alpha * a^T b, with a [k, m], b [k, n]. Row-major; ld: elements from one row to the next. c overlaps
/// neither a nor b.
struct Gemm {
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  int64_t m, n, k;
  float alpha = 1;
  /// The elements of c with column >= row only; some below them may be changed too, others are not.
  bool upper = false;
};

/// On the calling thread, or split over `pool`. Each element is the same sum in the same order whatever the number of
/// threads and wherever c was cut into separate products (but not k).
void gemm(const Gemm& product, ThreadPool* pool = nullptr);

/// The same at a given processor level, for tests; the processor must have it.
void gemm_at(CpuLevel level, const Gemm& product, ThreadPool* pool = nullptr);

}  // namespace turboquant
