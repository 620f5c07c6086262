// What loading a model with linear attention needs beyond the linear layers.
#include <gtest/gtest.h>

#include "io/error_of.h"
#include "models/test_checkpoint.h"
#include "nn/linear.h"
#include "nn/roles.h"
#include "nn/rope.h"

namespace turboquant {
namespace {

Tensor counting(Shape shape) {
  Tensor tensor = Tensor::zeros(DType::f32, shape);
  for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<float>()[i] = static_cast<float>(i);
  return tensor;
}

std::vector<float> values_of(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.elements()};
}

TEST(Loader, TapsOfBothLayouts) {
  TestCheckpoint checkpoint;
  checkpoint.set("taps_last", counting({3, 1, 2}));
  checkpoint.set("taps_middle", counting({3, 2, 1}));
  checkpoint.set("other", counting({3, 2}));
  Loader loader(checkpoint);
  const std::vector<float> expected{0, 2, 4, 1, 3, 5};
  EXPECT_EQ(values_of(loader.depthwise("taps_last", 3, 2)), expected);
  EXPECT_EQ(values_of(loader.depthwise("taps_middle", 3, 2)), expected);
  EXPECT_EQ(loader.depthwise("taps_last", 3, 2).shape(), (Shape{2, 3}));
  EXPECT_HAS(error_of([&] { loader.depthwise("taps_last", 3, 4); }), "'taps_last': F32 [3, 1, 2], expected F32 [3, 4");
  EXPECT_HAS(error_of([&] { loader.depthwise("other", 3, 2); }), "'other': F32 [3, 2]");
  EXPECT_HAS(error_of([&] { loader.depthwise("none", 3, 2); }), "'none': missing");
}

TEST(Loader, NormsWithAnOffset) {
  TestCheckpoint checkpoint;
  checkpoint.set("norm", counting({3}));
  Loader loader(checkpoint);
  EXPECT_EQ(values_of(loader.norm("norm", 3, 1)), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(values_of(loader.norm("norm", 3, 0)), (std::vector<float>{0, 1, 2}));
  EXPECT_EQ(values_of(checkpoint.read("norm")), (std::vector<float>{0, 1, 2}));  // not changed in place
  EXPECT_HAS(error_of([&] { loader.norm("norm", 4, 1); }), "'norm': F32 [3], expected F32 [4]");
}

TEST(Roles, LayersOfLinearAttention) {
  const std::string layer = "model.layers.0.linear_attn.";
  for (const char* name : {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"}) {
    EXPECT_EQ(role_of(layer + name + ".weight"), Role::linear) << name;
    EXPECT_EQ(input_site(layer + name), layer + "in_proj") << name;
  }
  EXPECT_EQ(role_of(layer + "out_proj.weight"), Role::linear);
  EXPECT_EQ(input_site(layer + "out_proj"), layer + "out_proj");
  for (const char* name : {"conv1d.weight", "norm.weight", "A_log", "dt_bias"})
    EXPECT_EQ(role_of(layer + name), Role::other) << name;
}

// A quarter of a head of 16 values: the frequencies 1 and 1 / sqrt(theta), the other 12 values stay.
TEST(Rope, PartOfAHead) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  const std::vector<int32_t> positions{3};
  const Tensor x = counting({1, 16});
  for (const char* where : {"here", "in rope_parameters"}) {
    nlohmann::json config = {{"rope_theta", 100.0}};
    (where == std::string("here") ? config : config["rope_parameters"])["partial_rotary_factor"] = 0.25;
    Rope rope(config, where, 16);
    rope.reserve(4);
    const std::vector<float> turned = values_of(rope.apply(*ops, x, positions));
    EXPECT_NEAR(turned[0], -2 * std::sin(3.0), 1e-6);
    EXPECT_NEAR(turned[2], 2 * std::cos(3.0), 1e-6);
    EXPECT_NEAR(turned[1], std::cos(0.3) - 3 * std::sin(0.3), 1e-6);
    EXPECT_NEAR(turned[3], 3 * std::cos(0.3) + std::sin(0.3), 1e-6);
    for (size_t i = 4; i < 16; ++i) EXPECT_EQ(turned[i], static_cast<float>(i));
  }
  for (const double part : {0.0625, 0.2, 1.5})  // one value, three values, more than all
    EXPECT_HAS(error_of([&] { Rope({{"partial_rotary_factor", part}}, "here", 16); }), "'partial_rotary_factor'");
}

}  // namespace
}  // namespace turboquant
