// Forks, cuts and growth of caches in random order: each goes on, to the last bit, as one that read its text at once.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "cache/cache.h"
#include "core/random.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

const AttentionShape kShape{4, 2, 32, 0.18F, 0, {}};
constexpr int64_t kKinds = 50;  // of tokens: each has its query, key and value

class Text {
 public:
  Text() {
    const auto random = [](uint64_t seed, int64_t width) {
      return from_float(random_normal(seed, kKinds * width).data(), {kKinds, width}, DType::f32);
    };
    q_ = random(1, 4 * 32);
    k_ = random(2, 2 * 32);
    v_ = random(3, 2 * 32);
  }

  /// Feeds tokens [begin, end) and returns their attention.
  std::vector<float> feed(Ops& ops, LayerCache& cache, const AttentionShape& shape, const std::vector<int32_t>& tokens,
                          size_t begin) const {
    const std::span<const int32_t> rows = std::span(tokens).subspan(begin);
    ops.begin_scope();
    const Tensor q = ops.gather_rows(q_, rows), k = ops.gather_rows(k_, rows), v = ops.gather_rows(v_, rows);
    Tensor out = Tensor::zeros(DType::f32, q.shape());
    cache.attend(ops, q, k, v, shape, out);
    return {out.data<float>(), out.data<float>() + out.elements()};
  }

 private:
  Tensor q_, k_, v_;
};

struct Kind {
  const char* name;
  AttentionShape shape;
  std::unique_ptr<LayerCache> (*make)();
};

std::vector<Kind> kinds() {
  AttentionShape window = kShape;
  window.window = 70;
  return {{"full", kShape, [] { return make_full_cache(DType::f16); }},
          {"window", window, [] { return make_full_cache(DType::f32); }},
          {"compressed", kShape, [] {
             return make_compressed_cache({4, 3}, 32);
           }}};
}

TEST(CacheOperations, InAnyOrder) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(2));
  for (const Kind& kind : kinds())
    for (const uint32_t seed : {1u, 2u, 3u}) {
      std::mt19937 random(seed);
      struct Branch {
        std::unique_ptr<LayerCache> cache;
        std::vector<int32_t> tokens;
      };
      std::vector<Branch> branches;
      branches.push_back({kind.make(), {}});
      for (int step = 0; step < 40; ++step) {
        Branch& branch = branches[random() % branches.size()];
        const auto length = static_cast<int64_t>(branch.tokens.size());
        switch (random() % 4) {
          case 0:
            if (branches.size() < 4) branches.push_back({branch.cache->fork(), branch.tokens});
            break;
          case 1: {
            const int64_t wanted = length - static_cast<int64_t>(random() % 90);
            const int64_t reached = branch.cache->reach(wanted);
            ASSERT_LE(reached, std::max<int64_t>(wanted, 0));
            ASSERT_EQ(branch.cache->reach(reached), reached);
            branch.cache->trim(reached);
            ASSERT_EQ(branch.cache->length(), reached);
            branch.tokens.resize(static_cast<size_t>(reached));
            break;
          }
          default: {
            if (length > 700) break;
            const size_t counts[] = {1, 1, 1 + random() % 20, 1 + random() % 300};
            for (size_t n = counts[random() % 4]; n > 0; --n)
              branch.tokens.push_back(static_cast<int32_t>(random() % kKinds));
            const std::vector<float> some =
                text.feed(*ops, *branch.cache, kind.shape, branch.tokens, static_cast<size_t>(length));
            const auto fresh = kind.make();
            const std::vector<float> all = text.feed(*ops, *fresh, kind.shape, branch.tokens, 0);
            ASSERT_EQ(std::memcmp(some.data(), all.data() + all.size() - some.size(), some.size() * sizeof(float)), 0)
                << kind.name << ", seed " << seed << ", step " << step << ": " << length << " to "
                << branch.tokens.size();
          }
        }
      }
    }
}

TEST(CompressedCache, BytesAreExact) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(2));
  for (const int64_t tokens : {1, 64, 127, 128, 129, 192, 193, 400}) {
    const auto cache = make_compressed_cache({4, 3}, 32);
    EXPECT_EQ(cache->bytes(), 0u);
    text.feed(*ops, *cache, kShape, std::vector<int32_t>(static_cast<size_t>(tokens), 7), 0);
    EXPECT_EQ(cache->bytes(), compressed_cache_bytes(*ops, kShape, {4, 3}, tokens)) << tokens;
    EXPECT_EQ(cache->length(), tokens);
  }
  // 10,000 more blocks cost 64 tokens of (4 + 3 bits and two scales of 16 / 32) each.
  const size_t more =
      compressed_cache_bytes(*ops, kShape, {4, 3}, 64 * 10'010) - compressed_cache_bytes(*ops, kShape, {4, 3}, 64 * 10);
  EXPECT_EQ(more * 8, size_t{10'000} * 64 * 2 * 32 * (4 + 3 + 1));
}

TEST(CompressedCache, GoesBackABlockAtLeast) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  for (const int64_t tokens : {300, 320, 383}) {
    const auto cache = make_compressed_cache({3, 3}, 32);
    text.feed(*ops, *cache, kShape, std::vector<int32_t>(static_cast<size_t>(tokens), 7), 0);
    EXPECT_EQ(cache->reach(tokens + 5), tokens);
    EXPECT_EQ(cache->reach(tokens - 63), tokens - 63);
    EXPECT_EQ(cache->reach(100), 0);
    EXPECT_HAS(error_of([&] { cache->trim(100); }), "cannot go back to 100");
    cache->trim(0);
    EXPECT_EQ(cache->bytes(), 0u);
  }
}

TEST(CacheOperations, LayersAgreeOnHowFarBack) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  Cache cache;
  cache.layers.push_back(make_full_cache(DType::f16));
  cache.layers.push_back(make_compressed_cache({4, 3}, 32));
  const std::vector<int32_t> tokens(300, 3);
  for (const auto& layer : cache.layers) text.feed(*ops, *layer, kShape, tokens, 0);
  Cache fork = cache.fork();
  EXPECT_EQ(fork.trim(280), 280);
  EXPECT_EQ(fork.layers[0]->length(), 280);
  EXPECT_EQ(fork.trim(100), 0);  // the compressed layer cannot
  EXPECT_EQ(fork.layers[0]->length(), 0);
  EXPECT_EQ(cache.length(), 300);
}

TEST(CompressedCache, HeadsThatCannotBeCompressedAreRefused) {
  EXPECT_HAS(error_of([] { make_compressed_cache({4, 3}, 40); }), "multiple of 16");
  EXPECT_HAS(error_of([] { make_compressed_cache({4, 5}, 64); }), "2, 3, 4 or 8 bits");
}

}  // namespace
}  // namespace turboquant
