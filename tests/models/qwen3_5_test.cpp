// Qwen3.5 against other implementations: transformers in float32 for the plain model, in both of its layouts, and the
// original in float32 for a model that the original compressed.
#include <gtest/gtest.h>

#include "models/batch_invariance.h"
#include "models/forward.h"
#include "models/test_checkpoint.h"

namespace turboquant {
namespace {

const char* const kLayouts[] = {"micro/qwen3_5", "micro/qwen3_5_hub", "micro/qwen3_5_moe_hub"};

TEST(Qwen35, LogitsOfBothLayouts) {
  for (const char* layout : kLayouts) {
    const Golden golden(kTestData / layout);
    const auto checkpoint = open_checkpoint(kTestData / layout);
    const auto model = test_model(*checkpoint, true);
    ASSERT_EQ(golden.input_ids.size(), 2u);
    for (size_t b = 0; b < golden.input_ids.size(); ++b)
      EXPECT_LT(relative_rms(one_pass(*model, golden.input_ids[b]), golden.logits[b]), 1e-4) << layout;
  }
}

TEST(Qwen35, GreedyContinuation) {
  for (const char* layout : kLayouts) {
    const Golden golden(kTestData / layout);
    const Tensor expected = golden.file.tensor("greedy");
    const auto checkpoint = open_checkpoint(kTestData / layout);
    const auto model = test_model(*checkpoint, true);
    Cache cache = model->make_cache();
    std::vector<int32_t> next = golden.input_ids[0], continuation;
    for (int64_t i = 0; i < expected.elements(); ++i) {
      const std::vector<float> logits = forward(*model, cache, next);
      const auto last = logits.end() - model->info().vocab_size;
      next = {static_cast<int32_t>(std::max_element(last, logits.end()) - last)};
      continuation.push_back(next[0]);
    }
    EXPECT_EQ(continuation,
              std::vector<int32_t>(expected.data<int32_t>(), expected.data<int32_t>() + expected.elements()))
        << layout;
  }
}

// Norms around 1, convolutions [channels, taps, 1] and names below language_model, as mlx-lm has them.
TEST(Qwen35, LogitsOfAModelThatTheOriginalCompressed) {
  const auto folder = kTestData / "tq/qwen3_5_hub-3b-g64";
  const Golden golden(folder);
  const auto checkpoint = open_checkpoint(folder);
  const auto model = test_model(*checkpoint, true);
  ASSERT_EQ(golden.input_ids.size(), 2u);
  for (size_t b = 0; b < golden.input_ids.size(); ++b)
    EXPECT_LT(relative_rms(one_pass(*model, golden.input_ids[b]), golden.logits[b]), 2e-3);
}

TEST(Qwen35, CutsAndBatchesDoNotMatter) {
  for (const char* name : {"micro/qwen3_5", "micro/qwen3_5_moe_hub"})
    expect_batch_invariance(*open_checkpoint(kTestData / name), true, DType::f32);
}

TEST(Qwen35, LayerTypesMayFollowFromTheInterval) {
  const auto whole = open_checkpoint(kTestData / "micro/qwen3_5");
  TestCheckpoint other(*whole);
  other.config().erase("layer_types");
  other.config()["full_attention_interval"] = 3;
  const std::vector<int32_t> tokens = random_tokens(20, 512, 1);
  EXPECT_TRUE(same_bits(one_pass(*test_model(other, true), tokens), one_pass(*test_model(*whole, true), tokens)));
  EXPECT_EQ(model_info(other.config(), "here").attention_layers, 2);
  other.config().erase("full_attention_interval");  // 4: layer 2 would be one of linear attention
  EXPECT_EQ(model_info(other.config(), "here").attention_layers, 1);
  EXPECT_THROW(test_model(other, true), Error);
}

// What a layer of linear attention remembers does not grow: only the two layers of full attention do.
TEST(Qwen35, MemoryOfTheCache) {
  const auto checkpoint = open_checkpoint(kTestData / "micro/qwen3_5");
  const auto model = test_model(*checkpoint, true);
  const size_t state = 4 * (4 * (32 * 32 + 16 * (32 + 32 + 1)) + 3 * 256) * sizeof(float),
               page = 2 * 2 * 256 * 64 * sizeof(float);
  const std::vector<int32_t> tokens = random_tokens(300, 512, 2);
  Cache cache = model->make_cache();
  EXPECT_EQ(cache.bytes(), 0u);
  for (const size_t count : {size_t{1}, tokens.size() - 1}) {
    forward(*model, cache, std::span(tokens).first(count));
    const size_t pages = static_cast<size_t>(cache.length() + 255) / 256;
    EXPECT_EQ(cache.bytes(), state + 2 * pages * page);
  }
  EXPECT_EQ(cache.length(), 300);
}

TEST(Qwen35, SaysWhatIsWrong) {
  const auto whole = open_checkpoint(kTestData / "micro/qwen3_5");
  const auto error_with = [&](const char* key, const nlohmann::json& value) {
    TestCheckpoint other(*whole);
    other.config()[key] = value;
    try {
      test_model(other, true);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(error_with("linear_num_key_heads", 3).find("'linear_num_value_heads' is no multiple"), std::string::npos);
  EXPECT_NE(error_with("linear_num_key_heads", 4).find("in_proj_qkv.weight"), std::string::npos);
  EXPECT_NE(error_with("linear_conv_kernel_dim", 1).find("'linear_conv_kernel_dim' is out of range"),
            std::string::npos);
  EXPECT_NE(error_with("linear_conv_kernel_dim", 5).find("conv1d.weight"), std::string::npos);
  EXPECT_NE(error_with("linear_value_head_dim", nullptr).find("'linear_value_head_dim' is missing"), std::string::npos);
  EXPECT_NE(error_with("layer_types", nlohmann::json::array({"linear_attention"})).find("'layer_types' has no name"),
            std::string::npos);
}

}  // namespace
}  // namespace turboquant
