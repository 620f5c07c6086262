// Loops that are written out. A compiler keeps an array of vectors in registers only if every index is a constant, and
// GCC unrolls loops too late to see that they are.
#pragma once

#include <type_traits>
#include <utility>

namespace turboquant {
namespace {

/// Calls body(std::integral_constant<int, 0>()), ..., body(std::integral_constant<int, kCount - 1>()).
template <int kCount, typename Body>
inline __attribute__((always_inline)) void unroll(const Body& body) {
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, kIndex>()), ...);
  }
  (std::make_integer_sequence<int, kCount>());
}

}  // namespace
}  // namespace turboquant

/// The attribute of a lambda that unroll() calls.
#define TURBOQUANT_INLINE __attribute__((always_inline))
