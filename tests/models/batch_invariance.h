// A token's logits do not depend on how its sequence is cut into steps, on what else is in a step, nor on the number of
// threads: they are the same to the last bit. Checked for whatever model it is given.
#pragma once

#include <algorithm>
#include <numeric>

#include "core/sanitized.h"
#include "models/forward.h"

namespace turboquant {

/// Steps of `chunk` tokens.
inline std::vector<float> in_chunks(Model& model, std::span<const int32_t> tokens, size_t chunk) {
  Cache cache = model.make_cache();
  std::vector<float> logits;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const std::vector<float> some =
        forward(model, cache, tokens.subspan(begin, std::min(chunk, tokens.size() - begin)));
    logits.insert(logits.end(), some.begin(), some.end());
  }
  return logits;
}

/// Several sequences at different positions, side by side: in every step each has no token, one (as in decoding) or
/// many (as in prefill), in any order.
inline std::vector<std::vector<float>> in_ragged_batches(Model& model,
                                                         const std::vector<std::vector<int32_t>>& sequences,
                                                         uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Cache> caches;
  for (size_t i = 0; i < sequences.size(); ++i) caches.push_back(model.make_cache());
  std::vector<size_t> done(sequences.size()), order(sequences.size());
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::vector<float>> logits(sequences.size());
  const auto left = [&](size_t i) { return sequences[i].size() - done[i]; };
  while (std::any_of(order.begin(), order.end(), [&](size_t i) { return left(i) > 0; })) {
    std::shuffle(order.begin(), order.end(), random);
    std::vector<SequenceTokens> batch;
    std::vector<size_t> members;
    for (const size_t i : order) {
      const size_t wishes[] = {0, 1, 1, 1 + random() % 8, 1 + random() % 60};
      const size_t count = std::min(left(i), wishes[random() % std::size(wishes)]);
      if (left(i) == 0 || (count == 0 && random() % 2 == 0)) continue;  // absent, or present without a token
      batch.push_back({&caches[i], std::span(sequences[i]).subspan(done[i], count)});
      members.push_back(i);
      done[i] += count;
    }
    const Tensor all = model.forward(batch);
    const auto* next = all.data<float>();
    for (size_t b = 0; b < batch.size(); ++b) {
      const size_t values = batch[b].tokens.size() * static_cast<size_t>(model.info().vocab_size);
      logits[members[b]].insert(logits[members[b]].end(), next, next + values);
      next += values;
    }
    EXPECT_EQ(next, all.data<float>() + all.elements());
  }
  return logits;
}

/// `long_length` beyond 256 makes caches of several pages.
inline void expect_batch_invariance(const Checkpoint& checkpoint, bool exact, DType cache_dtype,
                                    size_t long_length = 300) {
  const auto model = test_model(checkpoint, exact, cache_dtype);
  const int64_t vocab = model->info().vocab_size;
  std::vector<std::vector<int32_t>> sequences;
  std::vector<std::vector<float>> expected;
  for (const size_t length : {size_t{96}, size_t{41}, long_length, size_t{1}, size_t{13}}) {
    sequences.push_back(random_tokens(length, vocab, static_cast<uint32_t>(length)));
    expected.push_back(one_pass(*model, sequences.back()));
    ASSERT_EQ(expected.back().size(), length * static_cast<size_t>(vocab));
  }
  for (const size_t chunk : kSanitized ? std::vector<size_t>{7} : std::vector<size_t>{1, 7, 32, 95})
    EXPECT_TRUE(same_bits(in_chunks(*model, sequences[0], chunk), expected[0])) << "chunks of " << chunk;
  EXPECT_TRUE(same_bits(in_chunks(*model, sequences[2], 250), expected[2])) << "chunks of 250";
  for (const uint32_t seed : kSanitized ? std::vector<uint32_t>{1} : std::vector<uint32_t>{1, 2}) {
    const auto logits = in_ragged_batches(*model, sequences, seed);
    for (size_t i = 0; i < sequences.size(); ++i)
      EXPECT_TRUE(same_bits(logits[i], expected[i])) << "batch " << seed << ", sequence " << i;
  }
  for (const int threads : kSanitized ? std::vector<int>{3} : std::vector<int>{1, 3}) {
    const auto other =
        load_model(checkpoint, make_cpu_ops(std::make_shared<ThreadPool>(threads)), {exact, {cache_dtype}});
    EXPECT_TRUE(same_bits(one_pass(*other, sequences[0]), expected[0])) << threads << " threads";
    EXPECT_TRUE(same_bits(in_chunks(*other, std::span(sequences[0]).first(20), 1),
                          {expected[0].begin(), expected[0].begin() + 20 * vocab}))
        << threads << " threads, token by token";
  }
}

}  // namespace turboquant
