// Plans against sums by hand, real conversions and what is known of large models.
#include "generate/plan.h"

#include <gtest/gtest.h>

#include "convert/in_memory.h"
#include "io/temp_folder.h"
#include "models/shapes.h"

namespace turboquant {
namespace {

Plan plan_of(const std::string& model, PlanOptions options = {}) { return make_plan(*open_for_plan(model), options); }

PlanOptions with(int64_t context, KvBits kv, uint64_t ram, int bits = 0) {
  PlanOptions options;
  options.context = context;
  options.kv.kv_bits = kv;
  options.ram = ram;
  options.bits = bits;
  return options;
}

TEST(Plan, WeightsAreThoseOfTheConversion) {
  for (const char* model : {"llama", "qwen2_moe", "gpt_oss_mxfp4", "qwen3_5_hub"}) {
    const auto folder = kTestData / "micro" / model;
    const auto source = open_checkpoint(folder);
    const Plan plan = plan_of(folder.string());
    ASSERT_EQ(plan.weights.size(), 4u);
    for (size_t i = 1; i < 4; ++i) {
      const auto small = converted(*source, spec_of("tcq16", plan.weights[i].bits));
      uint64_t bytes = 0;
      for (const TensorInfo& info : small->tensors()) bytes += info.bytes();
      EXPECT_EQ(plan.weights[i].bytes, bytes) << model << " " << plan.weights[i].bits;
    }
    EXPECT_EQ(plan.chosen.bits, 3);
    EXPECT_EQ(plan.total, plan.chosen.bytes + plan.kv + plan.state + plan.workspace);
  }
}

TEST(Plan, AveragesAndSizes) {
  PlanOptions options;
  options.bits = 3.5;
  const Plan average = plan_of("gpt-oss-20b", options);
  ASSERT_EQ(average.weights.size(), 5u);  // beside 16, 4, 3 and 2
  EXPECT_EQ(average.chosen.bits, 3.5);
  EXPECT_EQ(average.chosen.bytes, average.weights.back().bytes);
  EXPECT_LT(average.chosen.bytes, average.weights[1].bytes);
  options.bits = 0;
  options.target_bytes = 9'000'000'000;
  options.ram = 8'500'000'000;
  const Plan size = plan_of("gpt-oss-20b", options);
  EXPECT_EQ(size.chosen.bits, 0);
  EXPECT_LE(size.chosen.bytes, 9'000'000'000u);
  EXPECT_GT(size.chosen.bytes, 8'950'000'000u);  // a stack of 32 experts is 33 MB a bit
  EXPECT_FALSE(size.fits);
  ASSERT_FALSE(size.flags.empty());
  EXPECT_EQ(size.flags.front(), "--bits 2");
  for (const double bits : {1.0, 5.5, 9.0, 17.0, -3.0}) {
    PlanOptions bad;
    bad.bits = bits;
    if (bits == 5.5)
      EXPECT_EQ(plan_of("gpt-oss-20b", bad).chosen.bits, 5.5);
    else
      EXPECT_THROW(plan_of("gpt-oss-20b", bad), UsageError) << bits;
  }
}

TEST(Plan, OfConfigAloneAndOfHeadersAgreesWithTheCheckpoint) {
  const TempFolder temp;
  const auto folder = kTestData / "micro" / "qwen2_moe";
  const Plan real = plan_of(folder.string());
  std::filesystem::copy_file(folder / "config.json", temp.path() / "config.json");
  const auto checkpoint = open_checkpoint(folder);
  const auto headers = checkpoint_of_headers("hub/model", checkpoint->config(), checkpoint->tensors());
  for (const Plan& plan :
       {plan_of(temp.path().string()), plan_of((temp.path() / "config.json").string()), make_plan(*headers, {})}) {
    EXPECT_EQ(plan.parameters, real.parameters);
    EXPECT_EQ(plan.active_parameters, real.active_parameters);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(plan.weights[i].bytes, real.weights[i].bytes);
    EXPECT_EQ(plan.total, real.total);
  }
  EXPECT_LT(real.active_parameters, real.parameters);
  EXPECT_THROW(headers->read("model.norm.weight"), Error);
}

TEST(Plan, CompressedModelStaysAsItIs) {
  const Plan plan = plan_of((kTestData / "tq" / "llama-3b-g64").string());
  EXPECT_TRUE(plan.compressed);
  EXPECT_EQ(plan.chosen.bits, 16);
  EXPECT_EQ(plan.options.bits, 16);
  EXPECT_EQ(plan.weights[2].bytes, plan_of((kTestData / "micro" / "llama").string()).weights[2].bytes);
}

// The original's claim: 3-bit weights and a 3-bit KV cache of 131,072 tokens within 50 GB.
TEST(Plan, GptOss120bFitsIn50Gigabytes) {
  const Plan plan = plan_of("gpt-oss-120b", with(131'072, {3, 3}, 50'000'000'000, 3));
  EXPECT_LT(plan.chosen.bytes + plan.kv, 50'000'000'000u);
  EXPECT_GT(plan.chosen.bytes, 46'000'000'000u);
  // 18 full layers of 8 heads of 64: all but the newest 64 tokens at 3.25 bits, and 16 bits of those, of the 64 before
  // and of the first 16. 18 layers with a page of 256 tokens, which holds the window.
  EXPECT_EQ(plan.kv,
            18u * ((131'072u - 64) * 2 * 8 * 64 * 13 / 32 + (128u + 16) * 2 * 8 * 64 * 2) + 18u * 256 * 2 * 8 * 64 * 2);
  EXPECT_EQ(plan.full_layers, 18);
  EXPECT_EQ(plan.sliding_layers, 18);
  EXPECT_NEAR(static_cast<double>(plan.size_on_disk), 65.25e9, 0.05e9);
}

TEST(Plan, CountsTheStateOfLinearAttentionOnce) {
  const Plan plan = plan_of("qwen3.5-122b-a10b", with(131'072, {3, 3}, 1'000'000'000'000));
  EXPECT_EQ(plan.linear_layers, 36);
  EXPECT_EQ(plan.state, 36u * 4 * (64 * (128 * 128 + 16 * (128 + 128 + 1)) + 3 * (2 * 16 * 128 + 64 * 128)));
  EXPECT_EQ(plan.state, plan_of("qwen3.5-122b-a10b", with(16, {}, 0)).state);
  EXPECT_TRUE(plan.fits);
  EXPECT_TRUE(plan.flags.empty());
}

TEST(Plan, FlagsMakeItFit) {
  // 3.9 GB of weights, 17 GB of cache at 131,072 tokens.
  const Plan plan = plan_of("llama-3.1-8b", with(131'072, {}, 12'000'000'000));
  EXPECT_FALSE(plan.fits);
  EXPECT_FALSE(plan.runs_from_file);
  ASSERT_EQ(plan.flags.size(), 2u);
  EXPECT_EQ(plan.flags[0], "--kv-bits k8v4");
  EXPECT_TRUE(plan_of("llama-3.1-8b", with(131'072, {8, 4}, 12'000'000'000)).fits);
  EXPECT_FALSE(plan_of("llama-3.1-8b", with(131'072, {8, 8}, 12'000'000'000)).fits);
  ASSERT_TRUE(plan.flags[1].starts_with("--context ")) << plan.flags[1];
  const int64_t context = std::stoll(plan.flags[1].substr(10));
  EXPECT_TRUE(plan_of("llama-3.1-8b", with(context, {}, 12'000'000'000)).fits);
  const PlanOptions longer = with(context + 512, {}, 12'000'000'000);
  EXPECT_FALSE(plan_of("llama-3.1-8b", longer).fits);

  const Plan weights = plan_of("llama-3.1-8b", with(4096, {}, 5'300'000'000, 16));
  EXPECT_TRUE(weights.runs_from_file);
  ASSERT_FALSE(weights.flags.empty());
  EXPECT_EQ(weights.flags[0], "--bits 3");
  EXPECT_TRUE(plan_of("llama-3.1-8b", with(4096, {}, 5'300'000'000, 3)).fits);

  const Plan nothing = plan_of("gpt-oss-120b", with(4096, {}, 8'000'000'000));
  EXPECT_TRUE(nothing.flags.empty());
  EXPECT_TRUE(nothing.runs_from_file);
}

TEST(Plan, KeepsLayersUncompressed) {
  PlanOptions options = with(4096, {3, 3}, 0);
  const uint64_t none = plan_of("llama-3.1-8b", options).kv;
  options.kv.keep_layers = 2;
  const uint64_t four = plan_of("llama-3.1-8b", options).kv;
  const uint64_t all = plan_of("llama-3.1-8b", with(4096, {}, 0)).kv;
  EXPECT_EQ(four - none, (all - none) / 32 * 4);
}

TEST(Plan, HeadsThatCannotBeCompressed) {
  const TempFolder temp;
  nlohmann::json config = *known_config("llama-3.1-8b");
  config["head_dim"] = 512;
  write_text(temp.path() / "config.json", config.dump());
  const Plan plan = plan_of(temp.path().string());
  ASSERT_EQ(plan.kv_choices.size(), 1u);
  EXPECT_EQ(plan.kv_choices[0].first, KvBits{});
  EXPECT_THROW(plan_of(temp.path().string(), with(4096, {3, 3}, 0)), Error);
}

TEST(Plan, SequencesMultiplyTheCache) {
  PlanOptions options = with(1000, {4, 3}, 0);
  const Plan one = plan_of("qwen3.5-122b-a10b", options);
  options.parallel = 5;
  const Plan five = plan_of("qwen3.5-122b-a10b", options);
  EXPECT_EQ(five.kv, 5 * one.kv);
  EXPECT_EQ(five.state, 5 * one.state);
  EXPECT_GT(one.available, 0u);
  EXPECT_GE(one.options.ram, one.available);
}

TEST(Plan, CountsTheCacheAtSeveralLengths) {
  PlanOptions options = with(4096, {4, 3}, 0);
  options.kv_lengths = {1000, 131'072};
  const Plan plan = plan_of("llama-3.2-1b", options);
  ASSERT_EQ(plan.kv_lengths.size(), 2u);
  for (const KvLength& row : plan.kv_lengths) {
    EXPECT_EQ(row.compressed, plan_of("llama-3.2-1b", with(row.context, {4, 3}, 0)).kv);
    EXPECT_EQ(row.fp16, plan_of("llama-3.2-1b", with(row.context, {}, 0)).kv);
  }
  // 16 layers of 8 heads of 64, keys and values.
  EXPECT_EQ(plan.kv_lengths[1].fp16, uint64_t{131'072} * 16 * 2 * 8 * 64 * 2);
  options.kv = {};
  const Plan uncompressed = plan_of("llama-3.2-1b", options);
  EXPECT_EQ(uncompressed.kv_compressed, (KvBits{3, 3}));
  EXPECT_LT(uncompressed.kv_lengths[1].compressed, plan.kv_lengths[1].compressed);
}

TEST(Plan, RefusesWhatIsNoModel) {
  const TempFolder temp;
  EXPECT_THROW(plan_of("gpt-6"), Error);
  EXPECT_THROW(plan_of(temp.path().string()), Error);
  write_text(temp.path() / "config.json", "[]");
  EXPECT_THROW(plan_of((temp.path() / "config.json").string()), Error);
  EXPECT_THROW(checkpoint_of_headers("x", {}, {{"a", DType::f32, {2}}, {"a", DType::f32, {2}}}), Error);
  EXPECT_THROW(checkpoint_of_headers("x", {}, {{"a", DType::f32, {int64_t{1} << 40, int64_t{1} << 40}}}), Error);
}

}  // namespace
}  // namespace turboquant
