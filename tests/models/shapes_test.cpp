// Tensors named by config.json alone against those of real checkpoints and the published sizes of known models.
#include "models/shapes.h"

#include <gtest/gtest.h>

#include "models/forward.h"

namespace turboquant {
namespace {

class ShapesOfConfig : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Micro, ShapesOfConfig,
                         testing::Values("llama", "mistral", "qwen2", "qwen2_moe", "gpt_oss", "gpt_oss_mxfp4",
                                         "qwen3_5", "qwen3_5_hub", "qwen3_5_moe_hub"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(ShapesOfConfig, AreTheTensorsOfTheCheckpoint) {
  const auto real = open_checkpoint(kTestData / "micro" / GetParam());
  const auto shapes = shapes_of_config("config.json", read_json(kTestData / "micro" / GetParam() / "config.json"));
  std::vector<std::string> expected, found;
  for (const TensorInfo& info : real->tensors()) expected.push_back(info.name + " " + to_string(info.shape));
  for (const TensorInfo& info : shapes.checkpoint->tensors()) found.push_back(info.name + " " + to_string(info.shape));
  EXPECT_EQ(found, expected);
}

TEST_P(ShapesOfConfig, MemoryIsThatOfTheCaches) {
  const auto checkpoint = open_checkpoint(kTestData / "micro" / GetParam());
  const auto model = test_model(*checkpoint, true, DType::f16);
  const auto memory = shapes_of_config("config.json", checkpoint->config()).memory;
  constexpr int64_t kTokens = 512;  // whole pages
  Cache cache = model->make_cache();
  forward(*model, cache, random_tokens(kTokens, model->info().vocab_size, 1));
  ASSERT_EQ(cache.layers.size(), memory.size());
  for (size_t i = 0; i < memory.size(); ++i) {
    const LayerMemory& layer = memory[i];
    const auto bytes = static_cast<int64_t>(cache.layers[i]->bytes());
    const int64_t all = 2 * layer.n_kv_heads * layer.head_dim * kTokens * 2;  // fp16
    if (layer.window > 0)
      EXPECT_LT(bytes, all) << "pages before the window are given back";
    else
      EXPECT_EQ(bytes, all + 4 * layer.state_floats) << "layer " << i;
  }
}

uint64_t parameters(const char* name) {
  uint64_t count = 0;
  const nlohmann::json* config = known_config(name);
  if (config == nullptr) return 0;
  const ModelShapes shapes = shapes_of_config(name, *config);
  for (const TensorInfo& info : shapes.checkpoint->tensors()) count += static_cast<uint64_t>(info.shape.elements());
  return count;
}

TEST(KnownConfig, HasThePublishedNumbersOfParameters) {
  EXPECT_EQ(parameters("llama-3.2-1b"), 1'235'814'400u);
  EXPECT_EQ(parameters("llama-3.1-8b"), 8'030'261'248u);
  EXPECT_EQ(parameters("qwen3-30b-a3b"), 30'532'122'624u);
  EXPECT_EQ(parameters("gpt-oss-20b"), 20'914'757'184u);
  EXPECT_EQ(parameters("gpt-oss-120b"), 116'829'156'672u);
  EXPECT_NEAR(static_cast<double>(parameters("qwen3.5-122b-a10b")), 122e9, 0.5e9);
  EXPECT_EQ(known_config("gpt-5"), nullptr);
}

TEST(KnownConfig, OfMxfp4CountsItsFileSize) {
  const ModelShapes shapes = shapes_of_config("gpt-oss-20b", *known_config("gpt-oss-20b"));
  EXPECT_NEAR(static_cast<double>(shapes.checkpoint->size_on_disk()), 13.76e9, 0.01e9);  // of its three shards
}

nlohmann::json gpt_oss() { return *known_config("gpt-oss-20b"); }

TEST(ShapesOfConfig, RefusesWhatNoModelHas) {
  nlohmann::json config = gpt_oss();
  config["num_local_experts"] = 1'000'000'000;
  EXPECT_THROW(shapes_of_config("x", config), Error);
  config = gpt_oss();
  config["hidden_size"] = int64_t{1} << 31;
  EXPECT_THROW(shapes_of_config("x", config), Error);
  config = gpt_oss();
  config["model_type"] = "perceiver";
  EXPECT_THROW(shapes_of_config("x", config), Error);
  EXPECT_THROW(shapes_of_config("x", nlohmann::json::array()), Error);
}

TEST(ShapesOfConfig, HaveNoWeights) {
  const ModelShapes shapes = shapes_of_config("x", gpt_oss());
  EXPECT_THROW(shapes.checkpoint->read("model.norm.weight"), Error);
  EXPECT_EQ(shapes.checkpoint->find("model.norm.bias"), nullptr);
  EXPECT_EQ(shapes.checkpoint->expect("another", {3}), nullptr);
}

}  // namespace
}  // namespace turboquant
