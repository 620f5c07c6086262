// The tokens of all sequences of a step, one after the other, as the layers of a model read them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/model.h"
#include "nn/attention.h"

namespace turboquant {

struct Batch {
  std::vector<int32_t> tokens, positions;
  std::vector<int32_t> wanted;  // rows whose logits are asked for
  std::vector<SequenceRows> sequences;

  /// Makes `rope` long enough. Error: a sequence grows beyond `max_context`.
  Batch(std::span<const SequenceTokens> parts, int64_t max_context, Rope& rope) {
    for (const SequenceTokens& part : parts) {
      const int64_t begin = static_cast<int64_t>(tokens.size()), start = part.cache->length();
      const auto count = static_cast<int64_t>(part.tokens.size());
      if (start + count > max_context)
        throw Error("the text is longer than the model's context of " + std::to_string(max_context) + " tokens");
      tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
      for (int64_t i = 0; i < count; ++i) positions.push_back(static_cast<int32_t>(start + i));
      for (int64_t i = part.logits_from; i < count; ++i) wanted.push_back(static_cast<int32_t>(begin + i));
      sequences.push_back({part.cache, begin, begin + count});
      rope.reserve(start + count);
    }
  }
};

}  // namespace turboquant
