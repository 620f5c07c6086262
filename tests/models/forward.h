// Running models in tests: whole sequences, sequences in pieces, and how far two results are apart.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "io/test_data.h"
#include "models/model.h"

namespace turboquant {

inline std::shared_ptr<ThreadPool> two_threads() {
  static const auto pool = std::make_shared<ThreadPool>(2);
  return pool;
}

inline std::unique_ptr<Model> test_model(const Checkpoint& checkpoint, bool exact, DType cache_dtype = DType::f32) {
  return load_model(checkpoint, make_cpu_ops(two_threads()), {exact, {cache_dtype}});
}

/// Feeds tokens[begin, end) behind what the cache remembers; logits of all of them.
inline std::vector<float> forward(Model& model, Cache& cache, std::span<const int32_t> tokens) {
  const SequenceTokens sequence{&cache, tokens};
  const Tensor logits = model.forward({&sequence, 1});
  return {logits.data<float>(), logits.data<float>() + logits.elements()};
}

/// Logits [tokens * vocab_size] of a sequence in one pass.
inline std::vector<float> one_pass(Model& model, std::span<const int32_t> tokens) {
  Cache cache = model.make_cache();
  return forward(model, cache, tokens);
}

inline std::vector<int32_t> random_tokens(size_t count, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return tokens;
}

/// sqrt(sum (x - expected)^2 / sum expected^2)
template <typename X, typename Expected>
double relative_rms(const X& x, const Expected& expected) {
  EXPECT_EQ(std::size(x), std::size(expected));
  double difference = 0, norm = 0;
  for (size_t i = 0; i < std::size(expected); ++i) {
    const double e = expected[i];
    difference += (x[i] - e) * (x[i] - e);
    norm += e * e;
  }
  return std::sqrt(difference / norm);
}

/// Equal to the last bit.
inline testing::AssertionResult same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return testing::AssertionFailure() << a.size() << " values, expected " << b.size();
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0)
      return testing::AssertionFailure() << "value " << i << " is " << a[i] << ", expected " << b[i];
  return testing::AssertionSuccess();
}

/// golden.safetensors of a folder: input_ids [B, T] and the logits [B, T, V] that another implementation gave.
struct Golden {
  explicit Golden(const std::filesystem::path& folder) : file(folder / "golden.safetensors") {
    const Tensor ids = file.tensor("input_ids"), all = file.tensor("logits");
    const int64_t length = ids.dim(1), logits_length = length * all.dim(2);
    for (int64_t b = 0; b < ids.dim(0); ++b) {
      input_ids.emplace_back(ids.data<int32_t>() + b * length, ids.data<int32_t>() + (b + 1) * length);
      logits.emplace_back(all.data<float>() + b * logits_length, all.data<float>() + (b + 1) * logits_length);
    }
  }

  SafetensorsFile file;
  std::vector<std::vector<int32_t>> input_ids;
  std::vector<std::vector<float>> logits;
};

}  // namespace turboquant
