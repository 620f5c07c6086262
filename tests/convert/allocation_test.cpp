// Spending a budget: against every choice of small cases.
#include "convert/allocation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "io/error_of.h"

namespace turboquant {
namespace {

using Units = std::vector<AllocationUnit>;

const AllocationOption& chosen(const AllocationUnit& unit, int bits) {
  return *std::find_if(unit.options.begin(), unit.options.end(), [&](const auto& o) { return o.bits == bits; });
}

struct Total {
  uint64_t bytes = 0;
  double loss = 0;
};

Total total(const Units& units, const std::vector<int>& bits) {
  Total sum;
  for (size_t i = 0; i < units.size(); ++i) {
    const AllocationOption& option = chosen(units[i], bits[i]);
    sum.bytes += option.bytes;
    sum.loss += option.loss;
  }
  return sum;
}

/// The least loss of all choices within the budget.
double least_loss(const Units& units, uint64_t budget, size_t unit = 0) {
  if (unit == units.size()) return 0;
  double best = std::numeric_limits<double>::infinity();
  for (const AllocationOption& option : units[unit].options)
    if (option.bytes <= budget) best = std::min(best, option.loss + least_loss(units, budget - option.bytes, unit + 1));
  return best;
}

/// Units as matrices are: bytes by bits, losses that fall four times a bit, sizes and weights at random; or, `wild`,
/// any bytes and losses.
Units random_units(std::mt19937& numbers, bool wild) {
  std::uniform_int_distribution<int> count(1, 5), size(1, 20), bytes(1, 60);
  std::uniform_real_distribution<double> weight(0.1, 10);
  Units units(static_cast<size_t>(count(numbers)));
  for (AllocationUnit& unit : units) {
    const int n = size(numbers);
    const double w = weight(numbers);
    for (const auto& [bits, error] : {std::pair{8, 0.00005}, {2, 0.0666}, {4, 0.004}, {3, 0.016}})
      unit.options.push_back(
          {bits, static_cast<uint64_t>(wild ? bytes(numbers) : n * bits), wild ? weight(numbers) : w * error});
  }
  return units;
}

/// The most that one step of a unit can save: to its next option, or, if options may be skipped, to any other.
double largest_step(const Units& units, bool wild) {
  double largest = 0;
  for (const AllocationUnit& unit : units) {
    std::vector<double> losses;
    for (const AllocationOption& option : unit.options) losses.push_back(option.loss);
    std::sort(losses.begin(), losses.end());
    for (size_t i = 1; i < losses.size(); ++i) largest = std::max(largest, losses[i] - losses[wild ? 0 : i - 1]);
  }
  return largest;
}

TEST(Allocation, KeepsWithinOneStepOfTheBestChoice) {
  std::mt19937 numbers(7);
  for (int round = 0; round < 200; ++round) {
    const bool wild = round % 2 == 1;
    const Units units = random_units(numbers, wild);
    const uint64_t least = least_bytes(units);
    double last = std::numeric_limits<double>::infinity();
    for (uint64_t budget = least; budget < least + 120; budget += 3) {
      const Total sum = total(units, allocate(units, budget));
      ASSERT_LE(sum.bytes, budget);
      ASSERT_LE(sum.loss, least_loss(units, budget) + largest_step(units, wild) + 1e-9) << round << ", " << budget;
      ASSERT_LE(sum.loss, last + 1e-9) << round << ", " << budget;  // more bytes are never worse
      last = sum.loss;
    }
  }
}

TEST(Allocation, StepsOfEqualSizeAreOptimal) {
  std::mt19937 numbers(13);
  std::uniform_real_distribution<double> weight(0.1, 10);
  for (int round = 0; round < 50; ++round) {
    Units units(5);
    for (AllocationUnit& unit : units) {
      const double w = weight(numbers);
      unit.options = {{2, 20, 0.0666 * w}, {3, 30, 0.016 * w}, {4, 40, 0.004 * w}};
    }
    for (uint64_t budget = 100; budget <= 210; budget += 5)
      EXPECT_NEAR(total(units, allocate(units, budget)).loss, least_loss(units, budget), 1e-12);
  }
}

TEST(Allocation, FillsWhatIsLeft) {
  // The steep step of the first does not fit; the flat one of the second does.
  const Units units = {{"a", {{2, 100, 10}, {4, 200, 1}}}, {"b", {{2, 10, 1}, {4, 20, 0.9}}}};
  EXPECT_EQ(allocate(units, 110), (std::vector<int>{2, 2}));
  EXPECT_EQ(allocate(units, 150), (std::vector<int>{2, 4}));
  EXPECT_EQ(allocate(units, 215), (std::vector<int>{4, 2}));
  EXPECT_EQ(allocate(units, 1000), (std::vector<int>{4, 4}));
}

// Small steps that save more for each byte do not keep out a large one that saves more than all behind them.
TEST(Allocation, ALargeUnitFindsRoom) {
  Units units = {{"head", {{4, 100, 10}, {8, 200, 0}}}};
  for (int i = 0; i < 40; ++i) units.push_back({"matrix", {{4, 10, 1}, {8, 15, i < 4 ? 0.4 : 0.9}}});
  const uint64_t least = least_bytes(units);
  const std::vector<int> bits = allocate(units, least + 110);  // four good steps take 20: 90 are left, not 100
  EXPECT_EQ(bits.front(), 8);
  EXPECT_EQ(std::count(bits.begin(), bits.end(), 8), 3);
}

TEST(Allocation, OptionsOffTheHullAreNotChosen) {
  // 3 bits lie above the line from 2 to 4; 8 bits cost more and lose as much as 4.
  const Units units = {{"a", {{3, 30, 9}, {8, 80, 1}, {2, 20, 10}, {4, 40, 1}}}};
  EXPECT_EQ(allocate(units, 35), (std::vector<int>{2}));
  EXPECT_EQ(allocate(units, 100), (std::vector<int>{4}));
}

TEST(Allocation, ABudgetThatIsTooSmallNamesTheLeast) {
  const Units units = {{"a", {{2, 100, 10}, {4, 200, 1}}}, {"b", {{2, 10, 1}}}};
  EXPECT_HAS(error_of([&] { allocate(units, 109); }), "109 bytes is too small: the fewest bits take 110");
  EXPECT_TRUE(allocate({}, 0).empty());
}

}  // namespace
}  // namespace turboquant
