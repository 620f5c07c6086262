// What requests for text have in common: sampling, length, stops, streaming.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "serve/json_body.h"
#include "turboquant/language_model.h"

namespace turboquant {

inline constexpr int kMostChoices = 32;
inline constexpr int kMostTopLogprobs = 20;

struct Parameters {
  SamplingOptions sampling;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop;
  int choices = 1;    // n
  int logprobs = -1;  // -1: none
  bool ignore_end = false;
  bool stream = false;
  bool include_usage = false;
};

/// OpenAI's members, and top_k, min_p, repetition_penalty (or repeat_penalty) and ignore_eos as other servers have
/// them. Logprobs are read by the two who have them in different forms. ApiError 400.
Parameters parse_parameters(const Fields& body, int64_t vocab_size);

}  // namespace turboquant
