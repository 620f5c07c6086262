#include "quant/rotation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "core/random.h"
#include "quant/hadamard_kernel.h"

namespace turboquant {
namespace {

// One lane: for orders whose power of two is smaller than any vector.
struct ScalarSimd {
  static constexpr int kWidth = 1;
  using Float = float;
  static float load(const float* p) { return *p; }
  static void store(float* p, float v) { *p = v; }
  static float set(float x) { return x; }
  static float add(float a, float b) { return a + b; }
  static float sub(float a, float b) { return a - b; }
  static float mul(float a, float b) { return a * b; }
  static void finish() {}
};

bool is_power_of_two(int64_t n) { return n > 0 && std::has_single_bit(static_cast<uint64_t>(n)); }

// The m of an order m * 2^k, 0 if the order has none.
int odd_order(int64_t block) {
  for (const int m : {1, 12, 20, 28})
    if (block > 0 && block % m == 0 && is_power_of_two(block / m)) return m;
  return 0;
}

void transform(CpuLevel level, float* x, int64_t width, int64_t block, bool transposed) {
  const int m = odd_order(block);
  if (m == 0 || width % block != 0)
    throw Error("no Hadamard transform of blocks of " + std::to_string(block) + " for a width of " +
                std::to_string(width) + ": the order must be m * 2^k (m = 1, 12, 20, 28) and divide the width");
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  const HadamardArgs args{x, width / block, m, block / m, scale, transposed};
#if defined(__x86_64__)
  if (has_avx512(level) && args.n >= 16) return hadamard_avx512(args);
  if (level != CpuLevel::scalar && args.n >= 8) return hadamard_avx2(args);
#elif defined(__aarch64__)
  if (level != CpuLevel::scalar && args.n >= 4) return hadamard_neon(args);
#else
  static_cast<void>(level);
#endif
  hadamard_portable(args);
}

void check_signs(const Rotation& rotation) {
  if (!rotation) throw Error("this rotation has no signs: an input that is not rotated is used as it is");
}

}  // namespace

void hadamard_portable(const HadamardArgs& args) {
  if (args.n >= PortableSimd::kWidth) return hadamard_blocks<PortableSimd>(args);
  hadamard_blocks<ScalarSimd>(args);
}

int64_t hadamard_block(int64_t width) {
  if (width < 1) throw Error("no Hadamard transform for a width of " + std::to_string(width));
  int64_t best = 1;
  for (const int64_t m : {1, 12, 20, 28}) {
    if (width % m != 0) continue;
    const int64_t rest = width / m;
    best = std::max(best, m * (rest & -rest));
  }
  return best;
}

void hadamard_at(CpuLevel level, float* x, int64_t width, int64_t block) { transform(level, x, width, block, false); }

void hadamard_inverse_at(CpuLevel level, float* x, int64_t width, int64_t block) {
  transform(level, x, width, block, true);
}

void hadamard(float* x, int64_t width, int64_t block) { transform(cpu_level(), x, width, block, false); }

void hadamard_inverse(float* x, int64_t width, int64_t block) { transform(cpu_level(), x, width, block, true); }

void rotate(const Rotation& rotation, const float* x, float* out) {
  check_signs(rotation);
  const int64_t width = rotation.signs.elements();
  const float* signs = rotation.signs.data<float>();
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * signs[i];
  hadamard(out, width, rotation.block);
}

void rotate_inverse(const Rotation& rotation, const float* x, float* out) {
  check_signs(rotation);
  const int64_t width = rotation.signs.elements();
  const float* signs = rotation.signs.data<float>();
  if (out != x) std::memcpy(out, x, static_cast<size_t>(width) * sizeof(float));
  hadamard_inverse(out, width, rotation.block);
  for (int64_t i = 0; i < width; ++i) out[i] *= signs[i];
}

Tensor make_signs(int64_t width, uint64_t seed) {
  Tensor signs = Tensor::zeros(DType::f32, {width});
  const std::vector<float> uniform = random_uniform(seed, width);
  for (int64_t i = 0; i < width; ++i) signs.data<float>()[i] = uniform[static_cast<size_t>(i)] < 0.5F ? -1.0F : 1.0F;
  return signs;
}

Rotation make_rotation(int64_t width, uint64_t seed) { return {make_signs(width, seed), hadamard_block(width)}; }

}  // namespace turboquant
