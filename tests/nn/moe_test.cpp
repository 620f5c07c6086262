#include "nn/moe.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nn/roles.h"

namespace turboquant {
namespace {

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Choice choose(const std::vector<float>& logits, int64_t per_token, MoeShape::Routing routing, bool normalize) {
  MoeShape shape;
  shape.experts = static_cast<int64_t>(logits.size());
  shape.per_token = per_token;
  shape.routing = routing;
  shape.normalize = normalize;
  Choice choice{std::vector<int32_t>(static_cast<size_t>(per_token)),
                std::vector<float>(static_cast<size_t>(per_token))};
  choose_experts(logits, shape, choice.experts, choice.weights);
  return choice;
}

void expect_weights(const Choice& choice, const std::vector<double>& expected) {
  ASSERT_EQ(choice.weights.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(choice.weights[i], expected[i], 1e-6);
}

const float kLog2 = std::log(2.0F);

TEST(ChooseExperts, ProbabilitiesOfAll) {
  // 1, 8, 2, 4 of 15
  const Choice choice = choose({0, 3 * kLog2, kLog2, 2 * kLog2}, 2, MoeShape::Routing::softmax_first, false);
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{1, 3}));
  expect_weights(choice, {8.0 / 15, 4.0 / 15});
}

TEST(ChooseExperts, Normalized) {
  const Choice choice = choose({2 * kLog2, 0, 3 * kLog2}, 2, MoeShape::Routing::softmax_first, true);
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{0, 2}));
  expect_weights(choice, {4.0 / 12, 8.0 / 12});
}

TEST(ChooseExperts, ProbabilitiesOfTheChosen) {
  const Choice choice = choose({0, -50, 3 * kLog2, 2 * kLog2}, 3, MoeShape::Routing::choose_first, false);
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{0, 2, 3}));
  expect_weights(choice, {1.0 / 13, 8.0 / 13, 4.0 / 13});
}

TEST(ChooseExperts, EqualLogitsGoToTheLowerIndex) {
  for (const auto routing : {MoeShape::Routing::softmax_first, MoeShape::Routing::choose_first})
    EXPECT_EQ(choose({1, 2, 2, 1, 2}, 2, routing, false).experts, (std::vector<int32_t>{1, 2}));
}

TEST(ChooseExperts, NotANumberStillChoosesDifferentExperts) {
  const float nan = std::nanf("");
  EXPECT_EQ(choose({nan, nan, nan}, 2, MoeShape::Routing::softmax_first, true).experts, (std::vector<int32_t>{0, 1}));
}

TEST(Roles, Experts) {
  EXPECT_EQ(role_of("model.layers.1.mlp.experts.12.down_proj.weight"), Role::linear);
  EXPECT_EQ(role_of("model.layers.1.mlp.shared_expert.gate_proj.weight"), Role::linear);
  for (const char* name : {"gate", "router", "shared_expert_gate"})
    EXPECT_EQ(role_of("model.layers.1.mlp." + std::string(name) + ".weight"), Role::other);
  EXPECT_EQ(expert_stack("model.layers.1.mlp.experts.12.down_proj"), "model.layers.1.mlp.experts.down_proj");
  EXPECT_EQ(expert_stack("model.layers.1.mlp.down_proj"), "model.layers.1.mlp.down_proj");
  EXPECT_EQ(expert_stack("model.layers.1.mlp.experts.down_proj"), "model.layers.1.mlp.experts.down_proj");
  EXPECT_EQ(expert_stack("mlp.experts.12"), "mlp.experts.12");
  EXPECT_EQ(expert_number("model.layers.1.mlp.experts.12.down_proj"), 12);
  EXPECT_EQ(expert_number("model.layers.1.mlp.down_proj"), -1);
  EXPECT_EQ(input_site("model.layers.1.mlp.experts.12.gate_proj"), "model.layers.1.mlp.gate_up");
  EXPECT_EQ(input_site("model.layers.1.mlp.shared_expert.up_proj"), "model.layers.1.mlp.gate_up");
  EXPECT_EQ(input_site("model.layers.1.mlp.up_proj"), "model.layers.1.mlp.gate_up");
  EXPECT_EQ(input_site("model.layers.1.mlp.experts.12.down_proj"), "model.layers.1.mlp.experts.down_proj");
  EXPECT_EQ(input_site("model.layers.1.mlp.shared_expert.down_proj"), "model.layers.1.mlp.shared_expert.down_proj");
}

}  // namespace
}  // namespace turboquant
