// Models with compressed caches: every architecture, its layers with windows and of linear attention left alone.
#include "io/checkpoint.h"
#include "models/batch_invariance.h"

namespace turboquant {
namespace {

constexpr const char* kMicro[] = {"llama",         "mistral", "qwen2",       "qwen2_moe",      "gpt_oss",
                                  "gpt_oss_mxfp4", "qwen3_5", "qwen3_5_hub", "qwen3_5_moe_hub"};

CacheOptions cache_with(const char* bits, int64_t keep_layers = 0) {
  return {DType::f16, parse_kv_bits(bits), keep_layers};
}

std::unique_ptr<Model> model_with(const Checkpoint& checkpoint, const char* bits) {
  return load_model(checkpoint, make_cpu_ops(two_threads()), {.exact = true, .cache = cache_with(bits)});
}

uint64_t bytes_of(Model& model, const CacheOptions& options, int64_t tokens) {
  const CacheBytes bytes = cache_bytes(model.ops(), model.layer_memory(), options, tokens);
  return bytes.kv + bytes.state;
}

/// The median over the last third of the tokens of the relative error of their logits: a router that picks another
/// expert is an outlier.
double median_error(const std::vector<float>& x, const std::vector<float>& expected, size_t tokens) {
  const auto width = static_cast<std::ptrdiff_t>(x.size() / tokens);
  std::vector<double> errors;
  for (auto at = width * static_cast<std::ptrdiff_t>(2 * tokens / 3); at < width * static_cast<std::ptrdiff_t>(tokens);
       at += width)
    errors.push_back(relative_rms(std::span(x.begin() + at, x.begin() + at + width),
                                  std::span(expected.begin() + at, expected.begin() + at + width)));
  std::sort(errors.begin(), errors.end());
  return errors[errors.size() / 2];
}

TEST(CompressedModel, EveryArchitecture) {
  for (const std::string name : kMicro) {
    if (kSanitized && name != "llama" && name != "gpt_oss" && name != "qwen3_5_moe_hub") continue;
    const auto checkpoint = open_checkpoint((kTestData / "micro" / name).string());
    const auto plain = model_with(*checkpoint, "fp16"), eight = model_with(*checkpoint, "8"),
               three = model_with(*checkpoint, "k4v3");
    const std::vector<int32_t> tokens = random_tokens(
        static_cast<size_t>(std::min<int64_t>(200, plain->info().max_context)), plain->info().vocab_size, 5);
    const std::vector<float> expected = one_pass(*plain, tokens), whole = one_pass(*three, tokens);
    ASSERT_EQ(tokens.size(), 200u) << name;  // those from 128 on see compressed ones
    const double error_8 = median_error(one_pass(*eight, tokens), expected, tokens.size()),
                 error_3 = median_error(whole, expected, tokens.size());
    EXPECT_LT(error_8, 0.02) << name;
    EXPECT_LT(error_3, 0.25) << name;  // small models with random weights: more than real ones
    if (name == "mistral")
      EXPECT_EQ(error_3, 0);  // windows in all layers
    else
      EXPECT_GT(error_3, 2 * error_8) << name;  // and they are compressed
    EXPECT_TRUE(same_bits(in_chunks(*three, tokens, 90), whole)) << name;
    Cache cache = three->make_cache(), uncompressed = plain->make_cache();
    forward(*three, cache, std::span(tokens).first(125));
    for (size_t i = 125; i < tokens.size(); ++i) {
      const auto at = whole.begin() + static_cast<std::ptrdiff_t>(i) * three->info().vocab_size;
      EXPECT_TRUE(
          same_bits(forward(*three, cache, std::span(tokens).subspan(i, 1)), {at, at + three->info().vocab_size}))
          << name << ", token " << i;
    }
    forward(*plain, uncompressed, tokens);
    const std::vector<LayerMemory> layers = three->layer_memory();
    for (size_t i = 0; i < layers.size(); ++i) {  // windows and states are left alone
      const bool full = layers[i].n_kv_heads > 0 && layers[i].window == 0;
      EXPECT_EQ(cache.layers[i]->bytes() != uncompressed.layers[i]->bytes(), full) << name << ", layer " << i;
    }
    EXPECT_EQ(cache.bytes(), bytes_of(*three, cache_with("k4v3"), static_cast<int64_t>(tokens.size()))) << name;
  }
}

TEST(CompressedModel, KeptLayersCountThoseWithKeysAndValues) {
  const auto checkpoint = open_checkpoint((kTestData / "micro" / "llama").string());
  const auto plain = model_with(*checkpoint, "fp16");
  const auto layers = static_cast<uint64_t>(plain->info().n_layers);
  const auto bytes = [&](const char* bits, int64_t keep) { return bytes_of(*plain, cache_with(bits, keep), 10'000); };
  const uint64_t all = bytes("fp16", 0), none = bytes("3", 0), saved = (all - none) / layers;
  EXPECT_EQ(bytes("3", 1), none + 2 * saved);
  EXPECT_EQ(bytes("3", plain->info().n_layers), all);
}

TEST(CompressedModel, RandomContentOfACache) {
  const auto checkpoint = open_checkpoint((kTestData / "micro" / "llama").string());
  const auto model = model_with(*checkpoint, "k4v3");
  Cache cache = model->make_cache();
  model->fill_randomly(cache, 200);
  EXPECT_EQ(cache.length(), 200);
  for (const float x : forward(*model, cache, std::vector<int32_t>{1})) ASSERT_TRUE(std::isfinite(x));
}

}  // namespace
}  // namespace turboquant
