// Where the time goes: ops that measure themselves, by class of operation.
#pragma once

#include <array>
#include <memory>
#include <string_view>

#include "ops/ops.h"

namespace turboquant {

enum class OpClass {
  embedding,
  inputs,    // rotation and quantization of what matrices read
  products,  // of weight matrices, but the head
  attention,
  cache,  // writing keys and values, compressing and reading them back
  linear_attention,
  elementwise,  // norms, rope, activations, sums, router
  head,
};
constexpr size_t kOpClasses = 8;

/// "matrix products", as tables print it.
std::string_view name(OpClass op);

/// Time and calls since it was made or cleared. Not for several threads that call ops at the same time, but within
/// Ops::each().
struct Profile {
  struct Entry {
    double seconds = 0;
    int64_t calls = 0;
  };
  std::array<Entry, kOpClasses> entries;

  Entry& operator[](OpClass op) { return entries[static_cast<size_t>(op)]; }
  const Entry& operator[](OpClass op) const { return entries[static_cast<size_t>(op)]; }
  /// Of all classes.
  double seconds() const;
  void clear() { entries = {}; }
  Profile& operator+=(const Profile& other);
};

/// `ops`, each call of which adds its wall time to `profile`: some 50 ns a call beside it. The head is the product with
/// as many rows as the last embedding() had.
std::unique_ptr<Ops> make_profiling_ops(std::shared_ptr<Ops> ops, std::shared_ptr<Profile> profile);

}  // namespace turboquant
