#include <gtest/gtest.h>

#include "cache/cache.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

TEST(RecurrentCache, CountsTokensAndKeepsItsSize) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  const DeltaShape shape{1, 2, 3, 4};
  const LayerMemory memory{.state_floats = 3 * shape.channels() + 2 * shape.state_floats()};
  const auto cache = make_recurrent_cache(memory);
  EXPECT_EQ(cache->length(), 0);
  EXPECT_EQ(cache->bytes(), 0u);
  const Tensor conv = Tensor::zeros(DType::f32, {4, shape.channels()}), head = Tensor::zeros(DType::f32, {2});
  for (const int64_t tokens : {5, 1}) {
    const Tensor gate = Tensor::zeros(DType::f32, {tokens, 2});
    cache->recur(*ops, Tensor::zeros(DType::f32, {tokens, shape.channels()}), conv, {gate, gate, head, head}, shape,
                 Tensor::zeros(DType::f32, {tokens, shape.values()}));
    EXPECT_EQ(cache->bytes(),
              static_cast<size_t>(3 * shape.channels() + 2 * (3 * 4 + 16 * (3 + 4 + 1))) * sizeof(float));
  }
  EXPECT_EQ(cache->length(), 6);

  const LayerState state = cache->save(*ops);
  const auto restored = make_recurrent_cache(memory);
  restored->restore(*ops, state);
  EXPECT_EQ(restored->length(), 6);
  EXPECT_EQ(restored->bytes(), cache->bytes());
  const auto smaller = make_recurrent_cache({.state_floats = memory.state_floats - 1});
  EXPECT_HAS(error_of([&] { smaller->restore(*ops, state); }), "expected " + std::to_string(memory.state_floats - 1));
  EXPECT_HAS(error_of([&] { cache->restore(*ops, {6, {}}); }), "no tensors 'inputs' and 'delta'");
}

TEST(RecurrentCache, OneKindOfAttentionEach) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  const Tensor x = Tensor::zeros(DType::f32, {1, 16});
  EXPECT_THROW(make_recurrent_cache({})->attend(*ops, x, x, x, {1, 1, 16, 1}, x), Error);
  EXPECT_THROW(make_full_cache({1, 16}, DType::f32)->recur(*ops, x, x, {}, {1, 1, 4, 8}, x), Error);
}

}  // namespace
}  // namespace turboquant
