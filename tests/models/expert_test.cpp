// Models with experts: against transformers in float32 (goldens), against plain double precision where there are none,
// and the promise that a token's logits do not depend on the other tokens of a step.
#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "models/expert_forward.h"
#include "models/expert_reference.h"

namespace turboquant {
namespace {

using namespace experts_test;

void expect_golden(const std::filesystem::path& folder, double bound) {
  SCOPED_TRACE(folder.string());
  const SafetensorsFile golden(folder / "golden.safetensors");
  const auto checkpoint = open_checkpoint(folder);
  const auto model = load(*checkpoint, true);
  const Tensor ids = golden.tensor("input_ids"), logits = golden.tensor("logits");
  const int64_t length = ids.dim(1), values = length * logits.dim(2);
  for (int64_t b = 0; b < ids.dim(0); ++b)
    EXPECT_LT(error(whole(*model, {ids.data<int32_t>() + b * length, static_cast<size_t>(length)}),
                    std::span(logits.data<float>() + b * values, static_cast<size_t>(values))),
              bound);
  if (!golden.contains("greedy")) return;
  const Tensor expected = golden.tensor("greedy");
  Cache cache = model->make_cache();
  std::vector<int32_t> next(ids.data<int32_t>(), ids.data<int32_t>() + length), greedy;
  for (int64_t i = 0; i < expected.elements(); ++i) {
    const std::vector<float> all = step(*model, cache, next);
    const auto last = all.end() - model->info().vocab_size;
    next = {static_cast<int32_t>(std::max_element(last, all.end()) - last)};
    greedy.push_back(next[0]);
  }
  EXPECT_EQ(greedy, std::vector<int32_t>(expected.data<int32_t>(), expected.data<int32_t>() + expected.elements()));
}

TEST(Experts, GoldenLogitsAndContinuations) {
  for (const char* name : {"qwen2_moe", "gpt_oss", "gpt_oss_mxfp4"}) expect_golden(kTestData / "micro" / name, 1e-4);
}

TEST(Experts, FilesOfTheOriginal) {
  for (const char* name : {"qwen2_moe-3b-g64", "gpt_oss_mxfp4-3b-g64"}) expect_golden(kTestData / "tq" / name, 1e-4);
}

TEST(Experts, TokensAreIndependent) {
  for (const char* name : {"qwen2_moe", "gpt_oss"}) {
    SCOPED_TRACE(name);
    expect_independent_tokens(*open_checkpoint(kTestData / "micro" / name), true);
  }
}

TEST(Experts, DoublePrecisionReference) {
  const std::pair<const char*, nlohmann::json> cases[] = {
      {"qwen3", {{"rope_theta", 1000000.0}}},
      {"qwen3", {{"num_key_value_heads", 2}, {"rms_norm_eps", 1e-2}}},
      {"qwen3_moe", {{"norm_topk_prob", true}}},
      {"qwen3_moe", {{"norm_topk_prob", false}, {"mlp_only_layers", {1}}}},
      {"qwen3_moe", {{"decoder_sparse_step", 2}, {"num_experts_per_tok", 7}}},
      {"mixtral", {{"sliding_window", nullptr}}},
      {"mixtral", {{"num_experts_per_tok", 1}}},
  };
  for (const auto& [architecture, changes] : cases) {
    SCOPED_TRACE(architecture + changes.dump());
    const MemoryModel source = make_expert_model(architecture, changes);
    const auto checkpoint = separate_experts(std::make_unique<MemoryModel>(source));
    const std::vector<int32_t> tokens = some_tokens(29, 80, 3);
    const auto model = load(*checkpoint, true);
    EXPECT_LT(error(whole(*model, tokens), ExpertReference(source).logits(tokens)), 1e-5);
    expect_independent_tokens(*checkpoint, true);
  }
}

TEST(Experts, WrongConfigsAndMissingTensors) {
  const auto message = [](const nlohmann::json& changes, const char* architecture) {
    try {
      load(*separate_experts(std::make_unique<MemoryModel>(make_expert_model(architecture, changes))), true);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message({{"num_experts_per_tok", 8}}, "mixtral"),
            "test-model: config.json: 'num_experts_per_tok' is 8 of only 7 experts");
  EXPECT_EQ(message({{"num_local_experts", 9}}, "mixtral"),
            "test-model: tensor 'model.layers.0.mlp.gate.weight': F32 [7, 64], expected F32 [9, 64] from config.json");
  EXPECT_EQ(message({{"num_experts", nullptr}}, "qwen3_moe"),
            "test-model: tensor 'model.layers.0.mlp.gate_proj.weight': missing");
  EXPECT_EQ(message({{"model_type", "qwen2_moe"}, {"shared_expert_intermediate_size", 16}}, "qwen3_moe"),
            "test-model: tensor 'model.layers.0.mlp.shared_expert.gate_proj.weight': missing");
  EXPECT_EQ(message(nlohmann::json::object(), "qwen3_moe"), "no error");
}

}  // namespace
}  // namespace turboquant
