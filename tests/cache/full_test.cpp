// The full-precision cache: attention over all that it was given, in whatever pieces, against the plain formula.
#include <gtest/gtest.h>

#include <cmath>

#include "cache/cache.h"
#include "core/half.h"
#include "core/random.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

struct Inputs {
  AttentionShape shape;
  int64_t tokens = 0;
  std::vector<float> q, k, v;

  Inputs(AttentionShape s, int64_t n) : shape(s), tokens(n) {
    q = random_normal(1, n * s.n_heads * s.head_dim);
    k = random_normal(2, n * s.n_kv_heads * s.head_dim);
    v = random_normal(3, n * s.n_kv_heads * s.head_dim);
  }
};

Tensor rows_of(const std::vector<float>& values, int64_t width, int64_t begin, int64_t end) {
  return from_float(values.data() + begin * width, {end - begin, width}, DType::f32);
}

/// Attends to the tokens in pieces of `chunk`.
std::vector<float> attended(LayerCache& cache, const Inputs& in, int64_t chunk) {
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(2));
  const int64_t q_width = in.shape.n_heads * in.shape.head_dim, kv_width = in.shape.n_kv_heads * in.shape.head_dim;
  std::vector<float> all;
  for (int64_t begin = 0; begin < in.tokens; begin += chunk) {
    const int64_t end = std::min(begin + chunk, in.tokens);
    ops->begin_scope();
    Tensor out = Tensor::zeros(DType::f32, {end - begin, q_width});
    cache.attend(*ops, rows_of(in.q, q_width, begin, end), rows_of(in.k, kv_width, begin, end),
                 rows_of(in.v, kv_width, begin, end), in.shape, out);
    EXPECT_EQ(cache.length(), end);
    all.insert(all.end(), out.data<float>(), out.data<float>() + out.elements());
  }
  return all;
}

/// softmax(scale q k^T) v over the tokens up to each query, in doubles; keys and values rounded as the cache keeps
/// them.
std::vector<double> formula(const Inputs& in, DType dtype) {
  const auto heads = static_cast<size_t>(in.shape.n_heads), kv_heads = static_cast<size_t>(in.shape.n_kv_heads);
  const auto dim = static_cast<size_t>(in.shape.head_dim), tokens = static_cast<size_t>(in.tokens);
  const auto kept = [&](float x) {
    return static_cast<double>(dtype == DType::f16 ? half_to_float(float_to_half(x)) : x);
  };
  std::vector<double> out(tokens * heads * dim);
  for (size_t t = 0; t < tokens; ++t)
    for (size_t head = 0; head < heads; ++head) {
      const size_t shared = head / (heads / kv_heads);
      std::vector<double> p;
      double sum = 0;
      for (size_t s = 0; s <= t; ++s) {
        double score = 0;
        for (size_t d = 0; d < dim; ++d)
          score += in.q[(t * heads + head) * dim + d] * kept(in.k[(s * kv_heads + shared) * dim + d]);
        p.push_back(std::exp(score * static_cast<double>(in.shape.scale)));
        sum += p.back();
      }
      for (size_t s = 0; s <= t; ++s)
        for (size_t d = 0; d < dim; ++d)
          out[(t * heads + head) * dim + d] += p[s] / sum * kept(in.v[(s * kv_heads + shared) * dim + d]);
    }
  return out;
}

TEST(FullCache, AttentionInAnyPieces) {
  for (const AttentionShape& shape :
       {AttentionShape{4, 2, 32, 0.18F}, AttentionShape{3, 3, 16, 0.25F}, AttentionShape{9, 1, 64, 0.125F}})
    for (const DType dtype : {DType::f16, DType::f32}) {
      const Inputs in(shape, 300);
      const std::vector<double> expected = formula(in, dtype);
      const LayerMemory memory{shape.n_kv_heads, shape.head_dim};
      const auto cache = make_full_cache(memory, dtype);
      const std::vector<float> whole = attended(*cache, in, 300);
      ASSERT_EQ(whole.size(), expected.size());
      for (size_t i = 0; i < whole.size(); ++i) ASSERT_NEAR(whole[i], expected[i], 2e-5) << i;
      for (const int64_t chunk : {1, 64, 257}) {
        const auto other = make_full_cache(memory, dtype);
        EXPECT_EQ(attended(*other, in, chunk), whole) << "pieces of " << chunk;
      }
    }
}

TEST(FullCache, LargeScoresDoNotOverflow) {
  Inputs in({2, 1, 16, 1.0F}, 20);
  for (float& x : in.q) x *= 100;
  const std::vector<float> out = attended(*make_full_cache({1, 16}, DType::f32), in, 20);
  for (const float x : out) ASSERT_TRUE(std::isfinite(x));
  for (int64_t d = 0; d < 32; ++d)  // the first token sees only itself
    EXPECT_FLOAT_EQ(out[static_cast<size_t>(d)], in.v[static_cast<size_t>(d % 16)]);
}

TEST(FullCache, LengthAndBytes) {
  Cache cache;
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(cache.bytes(), 0u);
  cache.layers.push_back(make_full_cache({2, 32}, DType::f16));
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(cache.bytes(), 0u);
  const Inputs in({4, 2, 32, 0.18F}, 257);
  attended(*cache.layers[0], in, 100);
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  EXPECT_EQ(cache.length(), 257);
  const auto pages = static_cast<size_t>((257 + ops->page_tokens() - 1) / ops->page_tokens());
  EXPECT_EQ(cache.bytes(), pages * ops->page_bytes(in.shape, DType::f16));
  EXPECT_EQ(ops->page_bytes(in.shape, DType::f32), 2 * ops->page_bytes(in.shape, DType::f16));
}

TEST(FullCache, OtherTypesAreRefused) {
  EXPECT_HAS(error_of([] { make_full_cache({2, 32}, DType::bf16); }), "a full-precision cache is F16 or F32, not BF16");
}

TEST(FullCache, HeadsThatTheKernelsDoNotHaveAreRefused) {
  const Inputs in({2, 2, 24, 0.2F}, 3);
  EXPECT_HAS(error_of([&] {
               attended(*make_full_cache({2, 24}, DType::f16), in, 3);
             }),
             "head_dim must be a multiple of 16");
}

}  // namespace
}  // namespace turboquant
