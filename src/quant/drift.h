// What compressed layers before a matrix do to its input, and how its weights can make up for it.
//
// A matrix W was trained for inputs x; behind compressed layers it reads y instead. What comes nearest to W x over a
// text is not W y but W' y, W' = W + W (sum (x - y) y^T) (sum y y^T + damping)^-1: least squares, held near W by the
// damping (Y. Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025, does the
// same within GPTQ). Then LDLQ encodes W' for y.
#pragma once

#include "core/thread_pool.h"
#include "quant/hessian.h"

namespace turboquant {

class Drift {
 public:
  explicit Drift(int64_t width) : sum_(Tensor::zeros(DType::f32, {width, width})) {}

  /// y: inputs behind compressed layers, x: the same without compression, both F32 [tokens, width] in the basis that
  /// the rows of the matrix are stored in.
  void add(const Tensor& y, const Tensor& x, ThreadPool& pool);

  /// (sum (x - y) y^T) (H + damping)^-1 times `strength`, transposed: F32 [width, width]. `hessian`: sum of y y^T, and
  /// its factor. What was added is used up.
  Tensor correction(const Hessian& hessian, const HessianFactor& factor, double strength, ThreadPool& pool);

 private:
  Tensor sum_;  // of y (x - y)^T
};

/// W' of rows F32 [rows, width] in that basis: w + w times the transpose of `correction`.
Tensor corrected(const Tensor& w, const Tensor& correction, ThreadPool& pool);

}  // namespace turboquant
