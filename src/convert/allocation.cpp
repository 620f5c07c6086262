#include "convert/allocation.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "turboquant/error.h"

namespace turboquant {
namespace {

// From a corner of a unit's hull to the next.
struct Upgrade {
  size_t unit = 0;
  AllocationOption to;
  uint64_t bytes = 0;  // more
  double saved = 0;    // loss, for each of these bytes
};

double slope(const AllocationOption& from, const AllocationOption& to) {
  return (from.loss - to.loss) / static_cast<double>(to.bytes - from.bytes);
}

// The corners of the lower convex hull, from the smallest option on: bytes grow, and each byte saves less and less.
std::vector<AllocationOption> hull(std::vector<AllocationOption> options) {
  std::sort(options.begin(), options.end(), [](const AllocationOption& a, const AllocationOption& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.loss < b.loss;
  });
  std::vector<AllocationOption> corners;
  for (const AllocationOption& option : options) {
    if (!corners.empty() && option.loss >= corners.back().loss) continue;  // more bytes for nothing
    while (corners.size() > 1 && slope(corners[corners.size() - 2], corners.back()) <= slope(corners.back(), option))
      corners.pop_back();
    corners.push_back(option);
  }
  return corners;
}

}  // namespace

uint64_t least_bytes(std::span<const AllocationUnit> units) {
  uint64_t total = 0;
  for (const AllocationUnit& unit : units)
    total += std::min_element(unit.options.begin(), unit.options.end(), [](const auto& a, const auto& b) {
               return a.bytes < b.bytes;
             })->bytes;
  return total;
}

namespace {

struct Choice {
  std::vector<int> bits;
  double loss = 0;
};

Choice greedy(std::span<const AllocationUnit> units, uint64_t budget) {
  Choice choice;
  std::vector<Upgrade> steps;
  for (size_t i = 0; i < units.size(); ++i) {
    const std::vector<AllocationOption> corners = hull(units[i].options);
    choice.bits.push_back(corners.front().bits);
    choice.loss += corners.front().loss;
    for (size_t k = 1; k < corners.size(); ++k)
      steps.push_back({i, corners[k], corners[k].bytes - corners[k - 1].bytes, slope(corners[k - 1], corners[k])});
  }
  // Stable: of equal slopes the first unit's comes first, and a unit's steps stay in their order.
  std::stable_sort(steps.begin(), steps.end(), [](const Upgrade& a, const Upgrade& b) { return a.saved > b.saved; });
  std::vector<bool> stopped(units.size(), false);  // a step of the unit did not fit: later ones start behind it
  uint64_t left = budget - least_bytes(units);
  for (const Upgrade& step : steps) {
    if (stopped[step.unit] || step.bytes > left) {
      stopped[step.unit] = true;
      continue;
    }
    left -= step.bytes;
    choice.bits[step.unit] = step.to.bits;
    choice.loss -= step.saved * static_cast<double>(step.bytes);
  }
  return choice;
}

// Units with a step that is a large part of everything, as an embedding's, the largest first.
std::vector<size_t> large_units(std::span<const AllocationUnit> units) {
  constexpr uint64_t kPart = 20;
  constexpr size_t kMost = 3;
  uint64_t all = 0;
  std::vector<std::pair<uint64_t, size_t>> largest;
  for (size_t i = 0; i < units.size(); ++i) {
    const std::vector<AllocationOption> corners = hull(units[i].options);
    all += corners.back().bytes;
    uint64_t step = 0;
    for (size_t k = 1; k < corners.size(); ++k) step = std::max(step, corners[k].bytes - corners[k - 1].bytes);
    largest.emplace_back(step, i);
  }
  std::erase_if(largest, [=](const auto& step) { return step.first <= all / kPart; });
  std::sort(largest.begin(), largest.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<size_t> result;
  for (size_t i = 0; i < std::min(largest.size(), kMost); ++i) result.push_back(largest[i].second);
  return result;
}

// The better of `best` and what is found with every option of the units large[next ..] in turn.
void try_options(std::vector<AllocationUnit>& units, uint64_t budget, std::span<const size_t> large, Choice& best) {
  if (least_bytes(units) > budget) return;
  Choice choice = greedy(units, budget);
  if (choice.loss < best.loss) best = std::move(choice);
  if (large.empty()) return;
  std::vector<AllocationOption>& options = units[large.front()].options;
  const std::vector<AllocationOption> all = options;
  for (const AllocationOption& option : hull(all)) {
    options = {option};
    try_options(units, budget, large.subspan(1), best);
  }
  options = all;
}

}  // namespace

std::vector<int> allocate(std::span<const AllocationUnit> units, uint64_t budget) {
  const uint64_t least = least_bytes(units);
  if (budget < least)
    throw Error("a budget of " + std::to_string(budget) + " bytes is too small: the fewest bits take " +
                std::to_string(least));
  Choice best{{}, std::numeric_limits<double>::infinity()};
  std::vector<AllocationUnit> changed(units.begin(), units.end());
  try_options(changed, budget, large_units(units), best);
  return best.bits;
}

}  // namespace turboquant
