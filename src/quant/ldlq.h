// LDLQ, calibrated compression into tiles: groups of columns are encoded from the last to the first, each with the
// errors of the later ones fed back through the factor of the input's Hessian (quant/hessian.h has the mathematics).
// The result is an ordinary tiled Weight.
#pragma once

#include "core/thread_pool.h"
#include "quant/hessian.h"
#include "quant/weight.h"

namespace turboquant {

struct CalibratedWeight {
  Weight weight;
  double error = 0;  // tr(E H E^T) / tr(W H W^T), E = what the stored weight lacks, H = the factor's L D L^T
};

/// w: F32, F16 or BF16 [rows, cols] as in the checkpoint, not rotated; `factor` of a Hessian in the rotated basis.
/// bits: 2, 3, 4 (TCQ16) or 8 (int8 rows). A group of 16 columns is encoded as target = W[:, g] + E[:, later] L[later,
/// g], on rows divided by row_unit(); in the end each row's scale is least squares in H, w H q / q H q, and rounded to
/// fp16. `pool` may be null; results do not depend on the number of threads. The memory besides the result is 2 KB a
/// column and thread at most. Errors as quantize(), and for a factor of another width.
CalibratedWeight ldlq(const Tensor& w, const Rotation& rotation, int bits, const HessianFactor& factor,
                      ThreadPool* pool);

}  // namespace turboquant
