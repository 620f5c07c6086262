#include "generate/prefill_budget.h"

#include <gtest/gtest.h>

#include <random>

namespace turboquant {
namespace {

struct Machine {
  double base, each;  // seconds of a step, and of one of its tokens more
};

// What is read beside `decoded` tokens once many steps were measured, which take a tenth more or less at random.
int64_t settled(const Machine& machine, int64_t decoded, int steps) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  PrefillBudget budget(0);
  const auto run = [&](int64_t tokens) {
    budget.measured(tokens, (machine.base + machine.each * static_cast<double>(tokens)) * noise(random));
  };
  for (int i = 0; i < 4; ++i) run(budget.tokens(false));
  for (int i = 0; i < steps; ++i) run(decoded + (i % 3 == 0 ? 0 : budget.tokens(true)));
  return budget.tokens(true);
}

// Whatever is decoded, reading takes 100 ms of a step, as far as the noise lets that be known.
TEST(PrefillBudget, IsAFixedTimeOfAStep) {
  for (const Machine machine : {Machine{0.008, 0.0014}, Machine{0.15, 0.02}, Machine{0.02, 0.003}})
    for (const int64_t decoded : {1, 8, 31})
      for (const int steps : {5, 200}) {
        const double seconds = machine.each * static_cast<double>(settled(machine, decoded, steps));
        EXPECT_GT(seconds, 0.035) << machine.base << " " << decoded << " " << steps;
        EXPECT_LT(seconds, 0.2) << machine.base << " " << decoded << " " << steps;
      }
}

TEST(PrefillBudget, FollowsTheMachine) {
  PrefillBudget budget(0);
  for (int i = 0; i < 20; ++i) budget.measured(40 + i % 5 * 10, 0.01 + 0.001 * (40 + i % 5 * 10));
  const int64_t before = budget.tokens(true);
  for (int i = 0; i < 20; ++i) budget.measured(40 + i % 5 * 10, 0.02 + 0.004 * (40 + i % 5 * 10));
  EXPECT_GT(before, 2 * budget.tokens(true));
  EXPECT_GT(budget.tokens(false), 2 * budget.tokens(true));
}

TEST(PrefillBudget, MayBeFixedBesideDecoding) {
  const PrefillBudget budget(37);
  EXPECT_EQ(budget.tokens(true), 37);
  EXPECT_GT(budget.tokens(false), 0);
}

}  // namespace
}  // namespace turboquant
