// Qwen3.5 in TCQ16: what is compressed, what stays, and what it costs.
#include <gtest/gtest.h>

#include <cstring>

#include "convert/in_memory.h"
#include "models/batch_invariance.h"

namespace turboquant {
namespace {

TEST(ConvertQwen35, CompressesEveryLinearLayerAndNothingElse) {
  const auto source = open_checkpoint(kTestData / "micro/qwen3_5_hub");
  const auto small = converted(*source, spec_of("tcq16", 3));
  const std::string layer = "model.layers.0.linear_attn.";
  for (const char* name : {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"}) {
    ASSERT_NE(small->find(layer + name + ".weight"), nullptr) << name;
    EXPECT_EQ(small->find(layer + name + ".weight")->dtype, DType::u8) << name;
  }
  EXPECT_NE(small->find(layer + "in_proj.signs"), nullptr);  // one rotation for all four
  EXPECT_NE(small->find(layer + "out_proj.signs"), nullptr);
  EXPECT_EQ(small->find(layer + "in_proj_z.signs"), nullptr);
  for (const char* name : {"conv1d.weight", "A_log", "dt_bias", "norm.weight"}) {
    const Tensor before = source->read(layer + name), after = small->read(layer + name);
    ASSERT_EQ(after.dtype(), before.dtype()) << name;
    ASSERT_EQ(after.shape(), before.shape()) << name;
    EXPECT_EQ(std::memcmp(after.data<char>(), before.data<char>(), before.bytes()), 0) << name;
  }
  for (const TensorInfo& info : small->tensors()) EXPECT_EQ(info.name.find("visual"), std::string::npos) << info.name;
}

// The weights are random, so no direction is unimportant, and six layers add up: the errors are large in every format.
TEST(ConvertQwen35, ErrorShrinksWithBitsAndIsBelowTheOriginals) {
  const auto source = open_checkpoint(kTestData / "micro/qwen3_5_hub");
  const Golden golden(kTestData / "micro/qwen3_5_hub");
  const auto error_of_format = [&](const char* format, int bits) {
    const auto small = converted(*source, spec_of(format, bits));
    const auto model = test_model(*small, false);
    EXPECT_EQ(model->info().architecture, "qwen3_5");
    return relative_rms(one_pass(*model, golden.input_ids[0]), golden.logits[0]);
  };
  const double tcq16_3 = error_of_format("tcq16", 3), tcq16_4 = error_of_format("tcq16", 4);
  EXPECT_LT(tcq16_3, 1);
  EXPECT_LT(tcq16_4, 0.8 * tcq16_3);
  // With six seeds of the signs: 0.63 to 0.71 and 0.78 to 0.82, so that the worst pair has a ratio of 0.92.
  EXPECT_LT(tcq16_4, 0.95 * error_of_format("original", 4));
}

TEST(ConvertQwen35, CutsAndBatchesDoNotMatter) {
  const auto source = open_checkpoint(kTestData / "micro/qwen3_5");
  const auto small = converted(*source, spec_of("tcq16", 3));
  expect_batch_invariance(*small, false, DType::f16);
}

}  // namespace
}  // namespace turboquant
