// Forks, cuts and growth of caches in random order: each goes on, to the last bit, as one that read its text at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "cache/layer_memory.h"
#include "core/random.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

const AttentionShape kShape{4, 2, 32, 0.18F, 0, {}};
const LayerMemory kMemory{2, 32};
constexpr int64_t kKinds = 50;  // of tokens: each has its query, key and value

class Text {
 public:
  Text() {
    const auto random = [](uint64_t seed, int64_t width) {
      // Halves: as every cache keeps them.
      return to_float(from_float(random_normal(seed, kKinds * width).data(), {kKinds, width}, DType::f16));
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
  return {{"full", kShape, [] { return make_full_cache(kMemory, DType::f16); }},
          {"window", window,
           [] {
             return make_full_cache({2, 32, 70}, DType::f32);
           }},
          {"original", kShape,
           [] {
             return make_original_cache(kMemory, {3, 3}, 64);
           }},
          {"compressed", kShape, [] {
             return make_compressed_cache(kMemory, {4, 3});
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
        switch (random() % 5) {
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
          case 2: {
            auto restored = kind.make();
            restored->restore(*ops, branch.cache->save(*ops));
            ASSERT_EQ(restored->length(), length);
            ASSERT_EQ(restored->bytes(), branch.cache->bytes());
            branch.cache = std::move(restored);
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

/// Keys, then values, of everything remembered.
std::vector<float> contents(Ops& ops, const LayerCache& cache) {
  const Tensor keys = Tensor::zeros(DType::f32, {cache.length(), kMemory.width()}),
               values = Tensor::zeros(DType::f32, keys.shape());
  cache.read(ops, 0, keys, values);
  std::vector<float> all(keys.data<float>(), keys.data<float>() + keys.elements());
  all.insert(all.end(), values.data<float>(), values.data<float>() + values.elements());
  return all;
}

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

TEST(CacheOperations, ConversionEqualsCompressionFromTheStart) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(2));
  std::vector<int32_t> tokens(700);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7 % kKinds);
  for (const KvFormat format : {KvFormat::tcq, KvFormat::original})
    for (const int64_t length : {1, 64, 130, 600}) {
      const CacheOptions options{DType::f16, {4, 3}, 1, format};
      const std::vector<LayerMemory> memory(3, kMemory);
      const auto prompt = std::vector<int32_t>(tokens.begin(), tokens.begin() + length);
      Cache converted = make_cache(memory, {}), direct = make_cache(memory, options);
      for (Cache* cache : {&converted, &direct})
        for (const auto& layer : cache->layers) text.feed(*ops, *layer, kShape, prompt, 0);
      Cache plain = converted.fork();
      convert_cache(*ops, converted, options);
      EXPECT_EQ(converted.options, options);
      EXPECT_EQ(converted.bytes(), direct.bytes());
      EXPECT_EQ(contents(*ops, *converted.layers[0]), contents(*ops, *plain.layers[0]));  // kept
      const std::vector<float> exact = contents(*ops, *plain.layers[1]), coded = contents(*ops, *converted.layers[1]);
      EXPECT_EQ(coded, contents(*ops, *direct.layers[1]));
      EXPECT_GT(cosine(exact, coded), format == KvFormat::tcq ? 0.99 : 0.985);
      EXPECT_EQ(exact == coded, format == KvFormat::tcq && length < 128);
      if (length == 600)  // the first tokens and the newest
        for (const size_t i : {size_t{0}, size_t{15}, size_t{16}, size_t{511}, size_t{512}, size_t{599}}) {
          const auto at = static_cast<std::ptrdiff_t>(i * 64);
          EXPECT_EQ(std::equal(exact.begin() + at, exact.begin() + at + 64, coded.begin() + at),
                    format == KvFormat::tcq && (i < 16 || i >= 512))
              << i;
        }
      for (size_t i = 0; i < 3; ++i)
        EXPECT_EQ(text.feed(*ops, *converted.layers[i], kShape, tokens, prompt.size()),
                  text.feed(*ops, *direct.layers[i], kShape, tokens, prompt.size()));
      EXPECT_HAS(error_of([&] { convert_cache(*ops, converted, options); }), "compressed already, to k4v3");
    }
}

TEST(CacheOperations, StatesOfOtherCachesAreRefused) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  for (const Kind& kind : kinds()) {
    const auto cache = kind.make();
    text.feed(*ops, *cache, kind.shape, std::vector<int32_t>(400, 3), 0);
    const auto refused = [&](const char* what, const auto& change) {
      LayerState state = cache->save(*ops);
      change(state);
      EXPECT_HAS(error_of([&] { kind.make()->restore(*ops, state); }), what) << kind.name;
    };
    refused("'keys'", [](LayerState& state) { state.tensors.erase("keys"); });
    refused("'values'", [](LayerState& state) { state.tensors.erase("values"); });
    refused("'keys'", [](LayerState& state) { state.tensors["keys"] = Tensor::zeros(DType::i32, {400, 64}); });
    refused(kind.name == std::string("original") ? "expected U32 [407, 2" : "a cache of 407 tokens cannot have",
            [](LayerState& state) { state.length += 7; });
    refused("", [](LayerState& state) { state.length = int64_t{1} << 60; });
  }
  const auto compressed = make_compressed_cache(kMemory, {4, 3});
  text.feed(*ops, *compressed, kShape, std::vector<int32_t>(400, 3), 0);
  const LayerState state = compressed->save(*ops);
  EXPECT_HAS(error_of([&] { make_compressed_cache(kMemory, {3, 3})->restore(*ops, state); }), "'blocks' is U8 [5, ");
}

TEST(OriginalCache, BytesAreExact) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  for (const int64_t tokens : {1, 256, 257}) {
    const auto cache = make_original_cache(kMemory, {3, 3}, 64);
    text.feed(*ops, *cache, kShape, std::vector<int32_t>(static_cast<size_t>(tokens), 7), 0);
    // 32 codes of 3 bits in 4 words, and a scale: of 2 heads, keys and values.
    EXPECT_EQ(cache->bytes(), static_cast<size_t>((tokens + 255) / 256 * 256) * 2 * 2 * (4 * 4 + 2));
    EXPECT_EQ(cache->bytes(), original_cache_bytes(kMemory, {3, 3}, 64, tokens));
  }
}

TEST(CompressedCache, BytesAreExact) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(2));
  for (const int64_t tokens : {1, 64, 127, 128, 129, 192, 193, 400}) {
    const auto cache = make_compressed_cache(kMemory, {4, 3});
    EXPECT_EQ(cache->bytes(), 0u);
    text.feed(*ops, *cache, kShape, std::vector<int32_t>(static_cast<size_t>(tokens), 7), 0);
    EXPECT_EQ(cache->bytes(), compressed_cache_bytes(*ops, kMemory, {4, 3}, tokens)) << tokens;
    EXPECT_EQ(cache->length(), tokens);
  }
  // 10,000 more blocks cost 64 tokens of (4 + 3 bits and two scales of 16 / 32) each.
  const size_t more = compressed_cache_bytes(*ops, kMemory, {4, 3}, 64 * 10'010) -
                      compressed_cache_bytes(*ops, kMemory, {4, 3}, 64 * 10);
  EXPECT_EQ(more * 8, size_t{10'000} * 64 * 2 * 32 * (4 + 3 + 1));
}

TEST(CompressedCache, GoesBackABlockAtLeast) {
  const Text text;
  const auto ops = make_cpu_ops(std::make_shared<ThreadPool>(1));
  for (const int64_t tokens : {300, 320, 383}) {
    const auto cache = make_compressed_cache(kMemory, {3, 3});
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
  cache.layers.push_back(make_full_cache(kMemory, DType::f16));
  cache.layers.push_back(make_compressed_cache(kMemory, {4, 3}));
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
  EXPECT_HAS(error_of([] { make_compressed_cache({2, 40}, {4, 3}); }), "multiple of 16");
  EXPECT_HAS(error_of([] { make_compressed_cache({2, 64}, {4, 5}); }), "2, 3, 4 or 8 bits");
}

}  // namespace
}  // namespace turboquant
