#include "core/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace turboquant {
namespace {

// The values of threefry and of the path hash that the original gives stand in tests/quant/rotation_test.cpp.

TEST(Random, LengthsSeedsAndTheHalfOfTheSeed) {
  EXPECT_TRUE(random_bits(5, 0).empty());
  for (const int64_t n : {1, 2, 3, 7, 100}) {
    EXPECT_EQ(random_bits(5, n).size(), static_cast<size_t>(n));
    EXPECT_EQ(random_normal(5, n).size(), static_cast<size_t>(n));
    EXPECT_EQ(random_bits(5, n), random_bits(5, n));
    EXPECT_NE(random_bits(5, n), random_bits(6, n));
    EXPECT_NE(random_bits(5, n), random_bits(5 + (uint64_t{1} << 32), n));
  }
}

TEST(Random, UniformAndNormalHaveTheirMoments) {
  constexpr int64_t kCount = 200'000;
  double uniform = 0, uniform_squares = 0, normal = 0, normal_squares = 0, normal_fourths = 0;
  for (const float u : random_uniform(1, kCount)) {
    ASSERT_GE(u, 0.0F);
    ASSERT_LT(u, 1.0F);
    uniform += u;
    uniform_squares += static_cast<double>(u) * u;
  }
  for (const float x : random_normal(2, kCount)) {
    const double square = static_cast<double>(x) * x;
    normal += x;
    normal_squares += square;
    normal_fourths += square * square;
  }
  // Five standard errors of the mean of so many values.
  const double n = kCount, root = 5 / std::sqrt(n);
  EXPECT_NEAR(uniform / n, 0.5, root * 0.289);
  EXPECT_NEAR(uniform_squares / n, 1.0 / 3, root * 0.298);
  EXPECT_NEAR(normal / n, 0, root);
  EXPECT_NEAR(normal_squares / n, 1, root * 1.414);
  EXPECT_NEAR(normal_fourths / n, 3, root * 9.8);
}

TEST(Random, PathHashIsBelowTwoToThe31) {
  // Every length of the last word of SipHash.
  std::string path;
  for (int i = 0; i < 20; ++i, path += 'x') EXPECT_LT(path_hash(path), uint64_t{1} << 31) << path;
  EXPECT_NE(path_hash("model.layers.0"), path_hash("model.layers.1"));
}

// Made by: PYTHONHASHSEED=N python3 -c 'print(hash("PATH") % 2**31)'
TEST(Random, PathHashIsPythons) {
  struct Case {
    uint32_t seed;
    const char* path;
    uint64_t hash;
  };
  for (const Case& c :
       {Case{0, "lm_head", 1162231509U}, Case{0, "model.layers.0.self_attn.q_proj", 62426435U},
        Case{0, "language_model.model.layers.11.mlp.down_proj", 528277492U}, Case{1, "lm_head", 190980569U},
        Case{1, "model.layers.0.self_attn.q_proj", 1839746341U},
        Case{1, "language_model.model.layers.11.mlp.down_proj", 840775238U}, Case{42, "lm_head", 1029119472U},
        Case{42, "model.layers.0.self_attn.q_proj", 211602094U},
        Case{42, "language_model.model.layers.11.mlp.down_proj", 228209553U}, Case{4294967295U, "lm_head", 1070535919U},
        Case{4294967295U, "model.layers.0.self_attn.q_proj", 1083119031U},
        Case{4294967295U, "language_model.model.layers.11.mlp.down_proj", 581067853U}})
    EXPECT_EQ(path_hash(c.path, c.seed), c.hash) << c.path << " with seed " << c.seed;
}

}  // namespace
}  // namespace turboquant
