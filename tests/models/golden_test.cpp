// Logits against those of other implementations: transformers in float32 for the plain model, the original in float32
// for a model that the original compressed.
#include <gtest/gtest.h>

#include "models/forward.h"

namespace turboquant {
namespace {

class GoldenModel : public testing::TestWithParam<const char*> {
 protected:
  const std::filesystem::path folder_ = kTestData / "micro" / GetParam();
};
INSTANTIATE_TEST_SUITE_P(Micro, GoldenModel, testing::Values("llama", "mistral", "qwen2"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(GoldenModel, LogitsOfThePlainModel) {
  const Golden golden(folder_);
  const auto checkpoint = open_checkpoint(folder_);
  const auto model = test_model(*checkpoint, true);
  ASSERT_EQ(golden.input_ids.size(), 2u);
  for (size_t b = 0; b < golden.input_ids.size(); ++b)
    EXPECT_LT(relative_rms(one_pass(*model, golden.input_ids[b]), golden.logits[b]), 1e-4);
}

TEST_P(GoldenModel, BothSequencesInOneStep) {
  const Golden golden(folder_);
  const auto checkpoint = open_checkpoint(folder_);
  const auto model = test_model(*checkpoint, true);
  std::vector<Cache> caches;
  std::vector<SequenceTokens> batch;
  for (size_t b = 0; b < 2; ++b) caches.push_back(model->make_cache());
  for (size_t b = 0; b < 2; ++b) batch.push_back({&caches[b], golden.input_ids[b]});
  const Tensor logits = model->forward(batch);
  std::vector<float> expected = golden.logits[0];
  expected.insert(expected.end(), golden.logits[1].begin(), golden.logits[1].end());
  ASSERT_EQ(logits.shape(), (Shape{192, 512}));
  EXPECT_LT(relative_rms(std::span(logits.data<float>(), expected.size()), expected), 1e-4);
}

TEST_P(GoldenModel, GreedyContinuation) {
  const Golden golden(folder_);
  const Tensor expected = golden.file.tensor("greedy");
  const auto checkpoint = open_checkpoint(folder_);
  for (const bool exact : {true, false}) {  // the model has no compressed weights: int8 changes nothing
    const auto model = test_model(*checkpoint, exact);
    Cache cache = model->make_cache();
    std::vector<int32_t> next = golden.input_ids[0], continuation;
    for (int64_t i = 0; i < expected.elements(); ++i) {
      const std::vector<float> logits = forward(*model, cache, next);
      const auto last = logits.end() - model->info().vocab_size;
      next = {static_cast<int32_t>(std::max_element(last, logits.end()) - last)};
      continuation.push_back(next[0]);
    }
    EXPECT_EQ(continuation,
              std::vector<int32_t>(expected.data<int32_t>(), expected.data<int32_t>() + expected.elements()));
  }
}

TEST(Golden, HalfPrecisionCacheIsClose) {
  const Golden golden(kTestData / "micro/llama");
  const auto checkpoint = open_checkpoint(kTestData / "micro/llama");
  const auto model = test_model(*checkpoint, true, DType::f16);
  const double error = relative_rms(one_pass(*model, golden.input_ids[0]), golden.logits[0]);
  EXPECT_LT(error, 2e-3);
  EXPECT_GT(error, 1e-6);  // it is really another cache
}

TEST(Golden, LogitsOfAModelThatTheOriginalCompressed) {
  const Golden golden(kTestData / "tq/llama-3b-g64");
  const auto checkpoint = open_checkpoint(kTestData / "tq/llama-3b-g64");
  const auto model = test_model(*checkpoint, true);
  ASSERT_EQ(golden.input_ids.size(), 2u);
  for (size_t b = 0; b < golden.input_ids.size(); ++b)
    EXPECT_LT(relative_rms(one_pass(*model, golden.input_ids[b]), golden.logits[b]), 2e-3);
}

}  // namespace
}  // namespace turboquant
