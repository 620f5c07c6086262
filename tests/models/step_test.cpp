// What a forward step promises: the same bits in any batch, logits where they are asked for, errors without damage.
#include <gtest/gtest.h>

#include "io/error_of.h"
#include "models/batch_invariance.h"
#include "models/test_checkpoint.h"

namespace turboquant {
namespace {

TEST(Step, SameBitsInAnyBatch) {
  const auto checkpoint = open_checkpoint(kTestData / "micro/llama");
  expect_batch_invariance(*checkpoint, true, DType::f32);
  expect_batch_invariance(*checkpoint, false, DType::f16, 530);
}

TEST(Step, SameBitsInAnyBatchForTheOriginalsFile) {
  const auto checkpoint = open_checkpoint(kTestData / "tq/llama-3b-g64");
  expect_batch_invariance(*checkpoint, false, DType::f16);
}

TEST(Step, SameBitsInAnyBatchForOddSizes) {
  for (const DType dtype : {DType::f32, DType::f16}) {
    TinyLlama tiny{44, 77, 2, 6, 2, 48, 53};
    tiny.tied = false;
    tiny.attention_bias = tiny.mlp_bias = true;
    tiny.dtype = dtype;
    expect_batch_invariance(make_tiny_llama(tiny), false, DType::f16, 257);
  }
}

// Pages behind the window are given back: nothing that is still seen may be among them.
TEST(Step, SameBitsInAnyBatchWithSlidingWindows) {
  TestCheckpoint checkpoint = make_tiny_llama({});
  checkpoint.config()["model_type"] = "mistral";
  checkpoint.config()["max_position_embeddings"] = 2048;
  for (const int64_t window : kSanitized ? std::vector<int64_t>{256} : std::vector<int64_t>{10, 256, 300}) {
    checkpoint.config()["sliding_window"] = window;
    expect_batch_invariance(checkpoint, false, DType::f16, 900);
  }
}

TEST(Step, LogitsOnlyWhereAskedFor) {
  const TestCheckpoint checkpoint = make_tiny_llama({});
  const auto model = test_model(checkpoint, true);
  const std::vector<int32_t> tokens = random_tokens(20, 80, 1);
  const std::vector<float> all = one_pass(*model, tokens);
  for (const int64_t from : {0, 1, 13, 19, 20}) {
    Cache cache = model->make_cache();
    const SequenceTokens sequence{&cache, tokens, from};
    const Tensor logits = model->forward({&sequence, 1});
    EXPECT_EQ(logits.shape(), (Shape{20 - from, 80}));
    EXPECT_TRUE(same_bits({logits.data<float>(), logits.data<float>() + logits.elements()},
                          {all.begin() + from * 80, all.end()}));
    EXPECT_EQ(cache.length(), 20);
  }
}

TEST(Step, LogitsOfEachSequenceWhereAskedFor) {
  const TestCheckpoint checkpoint = make_tiny_llama({});
  const auto model = test_model(checkpoint, true);
  const std::vector<int32_t> a = random_tokens(20, 80, 1), b = random_tokens(9, 80, 2), c = random_tokens(5, 80, 3);
  std::vector<float> expected = one_pass(*model, a);
  expected.erase(expected.begin(), expected.end() - 80);  // the last
  const std::vector<float> of_c = one_pass(*model, c);
  expected.insert(expected.end(), of_c.begin() + 2 * 80, of_c.end());
  Cache cache_a = model->make_cache(), cache_b = model->make_cache(), cache_c = model->make_cache();
  const SequenceTokens batch[] = {{&cache_a, a, 19}, {&cache_b, b, 9}, {&cache_c, c, 2}};
  const Tensor logits = model->forward(batch);
  EXPECT_EQ(logits.shape(), (Shape{1 + 0 + 3, 80}));
  EXPECT_TRUE(same_bits({logits.data<float>(), logits.data<float>() + logits.elements()}, expected));
}

TEST(Step, AStepWithoutTokens) {
  const TestCheckpoint checkpoint = make_tiny_llama({});
  const auto model = test_model(checkpoint, false);
  EXPECT_EQ(model->forward({}).shape(), (Shape{0, 80}));
  Cache cache = model->make_cache();
  const SequenceTokens nothing{&cache, {}};
  EXPECT_EQ(model->forward({&nothing, 1}).shape(), (Shape{0, 80}));
  EXPECT_EQ(cache.length(), 0);
}

TEST(Step, ContextOverflow) {
  TestCheckpoint checkpoint = make_tiny_llama({});
  checkpoint.config()["max_position_embeddings"] = 24;
  const auto model = test_model(checkpoint, true);
  const std::vector<int32_t> tokens = random_tokens(25, 80, 1);
  EXPECT_HAS(error_of([&] { one_pass(*model, tokens); }), "longer than the model's context of 24 tokens");

  Cache cache = model->make_cache();
  const std::vector<float> whole = one_pass(*model, std::span(tokens).first(24));
  forward(*model, cache, std::span(tokens).first(23));
  EXPECT_HAS(error_of([&] { forward(*model, cache, std::span(tokens).subspan(23, 2)); }), "context of 24 tokens");
  EXPECT_EQ(cache.length(), 23);  // the step that failed left it as it was
  EXPECT_TRUE(same_bits(forward(*model, cache, std::span(tokens).subspan(23, 1)), {whole.end() - 80, whole.end()}));
  EXPECT_HAS(error_of([&] { forward(*model, cache, std::span(tokens).first(1)); }), "context of 24 tokens");
}

TEST(Step, TokenOutsideTheVocabulary) {
  const TestCheckpoint checkpoint = make_tiny_llama({});
  const auto model = test_model(checkpoint, true);
  Cache cache = model->make_cache();
  for (const int32_t bad : {80, -1, INT32_MAX, INT32_MIN}) {
    const std::vector<int32_t> tokens = {1, bad, 2};
    EXPECT_HAS(error_of([&] { forward(*model, cache, tokens); }),
               "token " + std::to_string(bad) + " is outside the vocabulary of 80");
    EXPECT_EQ(cache.length(), 0);
  }
  EXPECT_EQ(forward(*model, cache, std::vector<int32_t>{79, 0}).size(), 160u);
}

TEST(Step, BytesOfACache) {
  const TestCheckpoint checkpoint = make_tiny_llama({});
  for (const DType dtype : {DType::f16, DType::f32}) {
    const auto model = test_model(checkpoint, true, dtype);
    for (const size_t tokens : {size_t{1}, size_t{255}, size_t{256}, size_t{257}}) {
      Cache cache = model->make_cache();
      forward(*model, cache, random_tokens(tokens, 80, 1));
      EXPECT_EQ(cache.length(), static_cast<int64_t>(tokens));
      // keys and values of 2 layers, 2 KV heads of 16, in whole pages
      EXPECT_GE(cache.bytes(), tokens * 2 * 2 * 2 * 16 * item_size(dtype));
      EXPECT_LT(cache.bytes(), (tokens + 256) * 2 * 2 * 2 * 16 * item_size(dtype));
    }
    EXPECT_EQ(model->make_cache().bytes(), 0u);
  }
}

}  // namespace
}  // namespace turboquant
