// A budget of bytes spent where a byte saves the most loss.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace turboquant {

/// One way to store a unit.
struct AllocationOption {
  int bits = 0;
  uint64_t bytes = 0;
  double loss = 0;
};

/// What gets its bits as one: a matrix, or the same matrix of all experts of a layer.
struct AllocationUnit {
  std::string name;
  std::vector<AllocationOption> options;  // one or more, in any order
};

/// The bits of every unit, in their order, so that they take at most `budget` bytes together and lose little. Losses
/// add up. Greedy over the lower convex hulls of the units' (bytes, loss), steepest step first (Y. Shoham, A. Gersho,
/// "Efficient bit allocation for an arbitrary set of quantizers", IEEE Trans. ASSP 36 (9), 1988): optimal until the
/// first step that the budget does not hold. Steps that still fit are then taken in the same order, so that little of
/// the budget is left. The step of a unit that is a large part of everything, as an embedding's, may find its room
/// taken by smaller ones: of the three largest such units every option is tried. The loss is above the least possible
/// by no more than that first step saves, and never grows with the budget. Deterministic. Error: not even the smallest
/// options fit; says what they take.
std::vector<int> allocate(std::span<const AllocationUnit> units, uint64_t budget);

/// The bytes of the smallest options together: the least budget.
uint64_t least_bytes(std::span<const AllocationUnit> units);

}  // namespace turboquant
