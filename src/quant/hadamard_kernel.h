// The Hadamard transform as a template over the vectors of quant/simd.h, and its compiled versions. Each element sees
// the same additions in the same order at any width, so all versions give the same bits.
#pragma once

#include <cstdint>

#include "quant/simd.h"

namespace turboquant {

/// Blocks of m * n elements, n a power of two that is a multiple of the version's vector width (Portable: any).
struct HadamardArgs {
  float* x;
  int64_t blocks;
  int m;  // 1, 12, 20, 28
  int64_t n;
  float scale;
  bool transposed;
};

void hadamard_portable(const HadamardArgs& args);
void hadamard_avx2(const HadamardArgs& args);
void hadamard_avx512(const HadamardArgs& args);
void hadamard_neon(const HadamardArgs& args);

namespace {

// The Hadamard matrices that MLX uses (Sloane's list): a row a number, most significant bit = column 0, 1 = +1, 0 = -1.
inline constexpr uint32_t kH12[12] = {0xbff, 0x2aa, 0xec3, 0x896, 0xfb0, 0xa25,
                                      0xcec, 0x989, 0xc3b, 0x962, 0xf0e, 0xa58};
inline constexpr uint32_t kH20[20] = {0x84336, 0x4238b, 0x211d5, 0x108fa, 0x866d,  0x7c139, 0xba29c,
                                      0xd914e, 0xe88a7, 0xf0653, 0x35a0f, 0x1ad17, 0x8d49b, 0xc685d,
                                      0x6343e, 0x49a10, 0xa0d08, 0x54484, 0x2e042, 0x93021};
inline constexpr uint32_t kH28[28] = {0x818694c, 0x41c14a6, 0x20e2a13, 0x1071549, 0x838ae4,  0x41e532,  0x30d299,
                                      0x3d019d2, 0x1e82ca9, 0x8e43654, 0xc621b2a, 0xe210d95, 0xf00a6ca, 0x7807325,
                                      0x5b3201e, 0xac9900f, 0x564c847, 0xab24463, 0xd590271, 0x6ac8178, 0xb4640bc,
                                      0x66b70c0, 0xb35b820, 0xd8adc10, 0x6d54e08, 0x37a8704, 0x9ad4382, 0xcd6a181};

template <int m, bool transposed>
constexpr bool positive(int row, int column) {
  const int r = transposed ? column : row, c = transposed ? row : column;
  const uint32_t bits = m == 12 ? kH12[r % 12] : m == 20 ? kH20[r % 20] : kH28[r % 28];
  return (bits >> (m - 1 - c) & 1) != 0;
}

// acc + or - in[column] for column = 0 .. m - 1, in that order, for rows row .. row + 3 side by side.
template <class Simd, int m, bool transposed, int row, int column = 0>
inline void accumulate_rows(const typename Simd::Float* in, typename Simd::Float (&acc)[4]) {
  if constexpr (column < m) {
    const typename Simd::Float v = in[column];
    acc[0] = positive<m, transposed>(row, column) ? Simd::add(acc[0], v) : Simd::sub(acc[0], v);
    acc[1] = positive<m, transposed>(row + 1, column) ? Simd::add(acc[1], v) : Simd::sub(acc[1], v);
    acc[2] = positive<m, transposed>(row + 2, column) ? Simd::add(acc[2], v) : Simd::sub(acc[2], v);
    acc[3] = positive<m, transposed>(row + 3, column) ? Simd::add(acc[3], v) : Simd::sub(acc[3], v);
    accumulate_rows<Simd, m, transposed, row, column + 1>(in, acc);
  }
}

template <class Simd, int m, bool transposed, int row = 0>
inline void small_matrix_rows(const typename Simd::Float* in, typename Simd::Float scale, float* x, int64_t n) {
  if constexpr (row < m) {
    typename Simd::Float acc[4] = {Simd::set(0), Simd::set(0), Simd::set(0), Simd::set(0)};
    accumulate_rows<Simd, m, transposed, row>(in, acc);
    for (int i = 0; i < 4; ++i) Simd::store(x + (row + i) * n, Simd::mul(acc[i], scale));
    small_matrix_rows<Simd, m, transposed, row + 4>(in, scale, x, n);
  }
}

// H_m over the m rows of n elements.
template <class Simd, int m, bool transposed>
void small_matrix(float* x, int64_t n, float scale) {
  for (int64_t c = 0; c < n; c += Simd::kWidth) {
    typename Simd::Float in[m];
    for (int r = 0; r < m; ++r) in[r] = Simd::load(x + r * n + c);
    small_matrix_rows<Simd, m, transposed>(in, Simd::set(scale), x + c, n);
  }
}

template <class Simd, int count>
inline void butterflies(typename Simd::Float (&v)[count]) {
  for (int h = 1; h < count; h *= 2)
    for (int i = 0; i < count; ++i)
      if ((i & h) == 0) {
        const typename Simd::Float a = v[i], b = v[i + h];
        v[i] = Simd::add(a, b);
        v[i + h] = Simd::sub(a, b);
      }
}

// log2(count) stages from distance h on, `count` vectors h elements apart.
template <class Simd, int count>
void stages(float* x, int64_t n, int64_t h) {
  for (int64_t base = 0; base < n; base += count * h)
    for (int64_t at = base; at < base + h; at += Simd::kWidth) {
      typename Simd::Float v[count];
      for (int i = 0; i < count; ++i) v[i] = Simd::load(x + at + i * h);
      butterflies<Simd, count>(v);
      for (int i = 0; i < count; ++i) Simd::store(x + at + i * h, v[i]);
    }
}

// The stages inside a vector, and log2(count) more between neighbours.
template <class Simd, int count>
void first_stages(float* x, int64_t n) {
  constexpr int kWidth = Simd::kWidth;
  for (int64_t at = 0; at < n; at += count * kWidth) {
    typename Simd::Float v[count];
    for (int i = 0; i < count; ++i) {
      v[i] = Simd::load(x + at + i * kWidth);
      if constexpr (kWidth > 1) v[i] = Simd::template butterfly<1>(v[i]);
      if constexpr (kWidth > 2) v[i] = Simd::template butterfly<2>(v[i]);
      if constexpr (kWidth > 4) v[i] = Simd::template butterfly<4>(v[i]);
      if constexpr (kWidth > 8) v[i] = Simd::template butterfly<8>(v[i]);
    }
    butterflies<Simd, count>(v);
    for (int i = 0; i < count; ++i) Simd::store(x + at + i * kWidth, v[i]);
  }
}

// H_{2^k}, not scaled, n a multiple of the vector width.
template <class Simd>
void sylvester(float* x, int64_t n) {
  int64_t h = Simd::kWidth;
  if (n >= 8 * h) {
    first_stages<Simd, 8>(x, n);
    h *= 8;
  } else {
    first_stages<Simd, 1>(x, n);
  }
  for (; h * 8 <= n; h *= 8) stages<Simd, 8>(x, n, h);
  if (h * 4 <= n) {
    stages<Simd, 4>(x, n, h);
    h *= 4;
  }
  if (h * 2 <= n) stages<Simd, 2>(x, n, h);
}

template <class Simd>
void hadamard_blocks(const HadamardArgs& args) {
  const int64_t n = args.n;
  float* x = args.x;
  for (int64_t block = 0; block < args.blocks; ++block, x += args.m * n) {
    for (int r = 0; r < args.m; ++r) sylvester<Simd>(x + r * n, n);
    switch (args.m) {
      case 12:  // symmetric
        small_matrix<Simd, 12, false>(x, n, args.scale);
        break;
      case 20:
        args.transposed ? small_matrix<Simd, 20, true>(x, n, args.scale)
                        : small_matrix<Simd, 20, false>(x, n, args.scale);
        break;
      case 28:
        args.transposed ? small_matrix<Simd, 28, true>(x, n, args.scale)
                        : small_matrix<Simd, 28, false>(x, n, args.scale);
        break;
      default:
        for (int64_t i = 0; i < n; i += Simd::kWidth)
          Simd::store(x + i, Simd::mul(Simd::load(x + i), Simd::set(args.scale)));
    }
  }
  Simd::finish();
}

}  // namespace
}  // namespace turboquant
