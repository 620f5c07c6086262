// Running models with experts in tests: steps, errors, and the promise that a token's logits do not depend on the other
// tokens of a step.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/random.h"
#include "core/sanitized.h"
#include "io/test_data.h"
#include "models/model.h"

namespace turboquant::experts_test {

inline std::unique_ptr<Model> load(const Checkpoint& checkpoint, bool exact, int threads = 2) {
  return load_model(checkpoint, make_cpu_ops(std::make_shared<ThreadPool>(threads)),
                    {exact, {exact ? DType::f32 : DType::f16}});
}

inline std::vector<float> step(Model& model, Cache& cache, std::span<const int32_t> tokens) {
  const SequenceTokens sequence{&cache, tokens};
  const Tensor logits = model.forward({&sequence, 1});
  return {logits.data<float>(), logits.data<float>() + logits.elements()};
}

inline std::vector<float> whole(Model& model, std::span<const int32_t> tokens) {
  Cache cache = model.make_cache();
  return step(model, cache, tokens);
}

template <typename Expected>
double error(const std::vector<float>& x, const Expected& expected) {
  EXPECT_EQ(x.size(), expected.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    difference += std::pow(x[i] - static_cast<double>(expected[i]), 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / norm);
}

inline bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline std::vector<int32_t> some_tokens(size_t count, int64_t vocab, uint64_t seed) {
  const std::vector<float> noise = random_normal(seed, static_cast<int64_t>(count));
  std::vector<int32_t> tokens;
  for (const float x : noise) tokens.push_back(static_cast<int32_t>(std::abs(x) * 1e6F) % static_cast<int32_t>(vocab));
  return tokens;
}

// One pass, chunks of several lengths, and two other sequences beside it, each in pieces: the same bits.
inline void expect_independent_tokens(const Checkpoint& checkpoint, bool exact) {
  const auto model = load(checkpoint, exact);
  const int64_t vocab = model->info().vocab_size;
  const std::vector<int32_t> tokens = some_tokens(70, vocab, 1), other = some_tokens(64, vocab, 2);
  const std::vector<float> expected = whole(*model, tokens);
  for (const size_t chunk : kSanitized ? std::vector<size_t>{13} : std::vector<size_t>{1, 3, 13, 40}) {
    Cache cache = model->make_cache();
    std::vector<float> logits;
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
      const auto some = step(*model, cache, std::span(tokens).subspan(begin, std::min(chunk, tokens.size() - begin)));
      logits.insert(logits.end(), some.begin(), some.end());
    }
    EXPECT_TRUE(same(logits, expected)) << "chunks of " << chunk;
  }
  Cache cache = model->make_cache(), beside = model->make_cache();
  std::vector<float> logits;
  for (size_t begin = 0, count = 1; begin < tokens.size(); begin += count, count = count % 9 + 2) {
    count = std::min(count, tokens.size() - begin);
    const size_t more = std::min<size_t>(begin % 4, other.size() - std::min(begin, other.size()));
    const SequenceTokens batch[] = {{&beside, std::span(other).subspan(std::min(begin, other.size()), more)},
                                    {&cache, std::span(tokens).subspan(begin, count)}};
    const Tensor all = model->forward(batch);
    const float* own = all.data<float>() + static_cast<int64_t>(more) * vocab;
    logits.insert(logits.end(), own, own + static_cast<int64_t>(count) * vocab);
  }
  EXPECT_TRUE(same(logits, expected)) << "beside another sequence";
  EXPECT_TRUE(same(whole(*load(checkpoint, exact, 1), tokens), expected)) << "one thread";
}

}  // namespace turboquant::experts_test
