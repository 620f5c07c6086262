// YaRN against its formulas (Peng et al. 2023, section 3), pair by pair.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "nn/rope.h"

namespace turboquant {
namespace {

struct Yarn {
  double theta, factor, context, fast, slow;
  bool truncate;
};

// The pair that turns `turns` times within the context.
double pair_of(const Yarn& yarn, double turns, double dim) {
  return dim * std::log(yarn.context / (2 * std::numbers::pi * turns)) / (2 * std::log(yarn.theta));
}

TEST(Yarn, CosinesAndSines) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  constexpr int64_t kDim = 64;
  const Yarn cases[] = {
      {150000, 32, 4096, 32, 1, false}, {150000, 32, 4096, 32, 1, true}, {10000, 4, 512, 16, 2, true}};
  for (const Yarn& yarn : cases)
    for (const double attention : {0.0, 1.5}) {
      nlohmann::json scaling = {{"rope_type", "yarn"},       {"factor", yarn.factor},
                                {"beta_fast", yarn.fast},    {"beta_slow", yarn.slow},
                                {"truncate", yarn.truncate}, {"original_max_position_embeddings", yarn.context}};
      if (attention != 0) scaling["attention_factor"] = attention;
      Rope rope({{"rope_theta", yarn.theta}, {"rope_scaling", scaling}}, "test", kDim);
      rope.reserve(300);
      Tensor x = Tensor::zeros(DType::f32, {1, kDim});
      std::fill_n(x.data<float>(), kDim / 2, 1.0F);  // every pair is (1, 0) and becomes (cos, sin)
      const int32_t position = 77;
      const Tensor y = rope.apply(*ops, x, {&position, 1});
      double low = pair_of(yarn, yarn.fast, kDim), high = pair_of(yarn, yarn.slow, kDim);
      if (yarn.truncate) low = std::floor(low), high = std::ceil(high);
      const double grown = attention != 0 ? attention : 0.1 * std::log(yarn.factor) + 1;
      bool kept = false, slowed = false, blended = false;
      for (int64_t i = 0; i < kDim / 2; ++i) {
        const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        const double plain = std::pow(yarn.theta, -2.0 * static_cast<double>(i) / kDim);
        const double angle = position * (plain * (1 - ramp) + plain / yarn.factor * ramp);
        EXPECT_NEAR(y.data<float>()[i], grown * std::cos(angle), 1e-5) << i;
        EXPECT_NEAR(y.data<float>()[kDim / 2 + i], grown * std::sin(angle), 1e-5) << i;
        (ramp == 0 ? kept : ramp == 1 ? slowed : blended) = true;
      }
      EXPECT_TRUE(kept && slowed && blended);  // all three kinds were there
    }
}

TEST(Yarn, RatioOfTwoScales) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  Rope rope({{"rope_scaling",
              {{"rope_type", "yarn"},
               {"factor", 40},
               {"mscale", 0.5},
               {"mscale_all_dim", 2.0},
               {"original_max_position_embeddings", 4096}}}},
            "test", 16);
  rope.reserve(1);
  Tensor x = Tensor::zeros(DType::f32, {1, 16});
  x.data<float>()[0] = 1;
  const int32_t position = 0;
  EXPECT_NEAR(rope.apply(*ops, x, {&position, 1}).data<float>()[0],
              (0.05 * std::log(40.0) + 1) / (0.2 * std::log(40.0) + 1), 1e-6);
}

}  // namespace
}  // namespace turboquant
