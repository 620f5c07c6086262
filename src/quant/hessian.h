// The statistics that calibrated compression needs of a matrix's input: the Hessian of its squared output error, and
// the block LDL decomposition of it.
//
// For y = x W^T the error of the output over a text is tr(E H E^T), E the error of W and H = sum x x^T. With H =
// L D L^T, L unit lower triangular in blocks of 16 and D block diagonal, that is the sum over groups of the error of
// (E L) in D: whoever encodes the groups from the last to the first, each with the feedback of the later ones' errors
// through L, makes it as small as rounding alone can (quant/ldlq.h). Sources: E. Frantar et al., "GPTQ", 2023; J. Chee
// et al., "QuIP", 2023 (LDLQ); A. Tseng et al., "QuIP#", 2024 (blocks).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"
#include "core/thread_pool.h"

namespace turboquant {

/// The sum of x x^T over tokens of an input, in the basis that the rows of its matrices are stored in (rotated where
/// the input is).
class Hessian {
 public:
  /// Zeros. Error if width < 1.
  explicit Hessian(int64_t width);

  /// x: [tokens, width]. Costs tokens * width^2 operations and one pass over the sum: hand over hundreds of tokens at a
  /// time. The sum does not depend on the number of threads.
  void add(const float* x, int64_t tokens, ThreadPool& pool);
  /// this += weight * other. Error if the widths differ.
  void add(const Hessian& other, double weight);

  int64_t width() const { return sum_.dim(0); }
  /// How many tokens were added, those of others by their weight.
  double tokens() const { return tokens_; }
  /// [width, width], the elements with column >= row; the others are not maintained.
  const float* values() const { return sum_.data<float>(); }
  size_t bytes() const { return sum_.bytes(); }

 private:
  Tensor sum_;
  double tokens_ = 0;
};

/// H = L D L^T of a Hessian whose trace was normalized to the width and to whose diagonal `damping` was added, in
/// groups of 16 columns.
struct HessianFactor {
  Tensor feedback;  // F32 [n, n], block strictly lower: L - 1
  Tensor diagonal;  // F32 [n / 16, 16, 16]: D
  double damping;   // what it took, see factor()
  double gain;      // trace of D over the trace of H: how much of the plain error LDLQ leaves, to first order (<= 1)
};

/// Diagonal blocks in double precision, the rest in single precision with quant/gemm.h. The memory besides the result
/// is small. Where H with this damping (>= 0) is not positive definite, damping is 10 times as much (at least 1e-6)
/// until it is: so a Hessian of zeros gives a multiple of the identity, with which LDLQ is plain rounding. Error for a
/// width that is no multiple of 16 and for a Hessian with NaN or infinity.
HessianFactor factor(const Hessian& hessian, double damping, ThreadPool& pool);

}  // namespace turboquant
