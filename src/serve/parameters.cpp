#include "serve/parameters.h"

#include <fmt/format.h>

#include <charconv>

#include "serve/api_error.h"

namespace turboquant {
namespace {

constexpr size_t kMostStops = 16, kMostStopBytes = 1024, kMostBiases = 4096;
constexpr int64_t kMostTokens = int64_t{1} << 30;

void set(float& value, const std::optional<double>& given) {
  if (given) value = static_cast<float>(*given);
}

std::vector<std::pair<int32_t, float>> parse_biases(const Fields& body, int64_t vocab_size) {
  std::vector<std::pair<int32_t, float>> result;
  const Json* biases = body.object("logit_bias");
  if (biases == nullptr) return result;
  if (biases->size() > kMostBiases)
    throw bad_request(fmt::format("logit_bias has more than {} tokens", kMostBiases), "logit_bias");
  const Fields fields(*biases, "logit_bias.");
  for (const auto& [token, bias] : biases->items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), id);
    if (error != std::errc() || end != token.data() + token.size() || id < 0 || id >= vocab_size)
      throw bad_request(fmt::format("logit_bias: its keys are token ids, 0 to {}", vocab_size - 1), "logit_bias");
    if (const auto value = fields.number(token.c_str(), -100, 100)) result.emplace_back(id, static_cast<float>(*value));
  }
  return result;
}

std::vector<std::string> parse_stop(const Fields& body) {
  std::vector<std::string> stop = body.texts("stop", kMostStops);
  std::erase(stop, "");
  for (const std::string& text : stop)
    if (text.size() > kMostStopBytes)
      throw bad_request(fmt::format("stop has a text of more than {} bytes", kMostStopBytes), "stop");
  return stop;
}

}  // namespace

Parameters parse_parameters(const Fields& body, int64_t vocab_size) {
  Parameters result;
  SamplingOptions& sampling = result.sampling;
  sampling.temperature = 1;
  set(sampling.temperature, body.number("temperature", 0, 100));
  set(sampling.top_p, body.number("top_p", 0, 1));
  if (sampling.top_p == 0) sampling.top_k = 1;  // the likeliest token alone, which the sampler calls top_k 1
  if (sampling.top_p == 0) sampling.top_p = 1;
  // llama-server's and vLLM's ways to say "off" are 0 and -1.
  if (const auto top_k = body.integer("top_k", -1, INT32_MAX); top_k && *top_k > 0)
    sampling.top_k = static_cast<int>(*top_k);
  set(sampling.min_p, body.number("min_p", 0, 1));
  set(sampling.presence_penalty, body.number("presence_penalty", -2, 2));
  set(sampling.frequency_penalty, body.number("frequency_penalty", -2, 2));
  set(sampling.repetition_penalty, body.number("repeat_penalty", 0.01, 100));
  set(sampling.repetition_penalty, body.number("repetition_penalty", 0.01, 100));
  sampling.logit_bias = parse_biases(body, vocab_size);
  if (const auto seed = body.integer("seed", INT64_MIN, INT64_MAX)) sampling.seed = static_cast<uint64_t>(*seed);

  result.max_tokens = body.integer("max_tokens", 0, kMostTokens);
  if (const auto most = body.integer("max_completion_tokens", 0, kMostTokens)) result.max_tokens = most;
  result.stop = parse_stop(body);
  result.choices = static_cast<int>(body.integer("n", 1, kMostChoices).value_or(1));
  result.ignore_end = body.boolean("ignore_eos").value_or(false);
  result.stream = body.boolean("stream").value_or(false);
  if (const Json* options = body.object("stream_options"))
    result.include_usage = Fields(*options, "stream_options.").boolean("include_usage").value_or(false);
  return result;
}

}  // namespace turboquant
