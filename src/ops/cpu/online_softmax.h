// What the kernels of attention share.
#pragma once

#include "core/simd.h"
#include "ops/cpu/kernels.h"

namespace turboquant {
namespace {

constexpr int64_t kWidth = Floats::kWidth;

/// e^(before - after), 0 where there was nothing before.
inline float exp_difference(float before, float after) {
  if (before <= kNoScore) return 0.0F;
  alignas(64) float result[kWidth];
  exp(Floats::all(before - after)).store(result);
  return result[0];
}

/// A bound on scores: cap * tanh(score / cap).
class SoftCap {
 public:
  explicit SoftCap(float cap) : cap_(Floats::all(cap)), inverse_(Floats::all(1 / cap)) {}

  Floats operator()(Floats score) const { return cap_ * tanh(score * inverse_); }

 private:
  Floats cap_, inverse_;
};

}  // namespace
}  // namespace turboquant
