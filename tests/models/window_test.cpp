// gpt-oss decodes across the wrap of its sliding windows: sinks in all layers, windows in every other one, compressed
// caches on those between them. What a cache answers is what one pass over the whole text gives.
#include "models/batch_invariance.h"
#include "models/test_checkpoint.h"

namespace turboquant {
namespace {

constexpr size_t kNewTokens = 3;  // decoded one by one behind a prompt

struct Window {
  const char* name;
  int64_t tokens;
};

class SlidingWindow : public testing::TestWithParam<Window> {};
// As config.json has it; longer than a block of a compressed cache; and a page of the others.
INSTANTIATE_TEST_SUITE_P(Micro, SlidingWindow,
                         testing::Values(Window{"gpt_oss", 16}, Window{"gpt_oss_mxfp4", 16}, Window{"gpt_oss", 100},
                                         Window{"gpt_oss", 256}),
                         [](const auto& info) {
                           return std::string(info.param.name) + "_" + std::to_string(info.param.tokens);
                         });

/// Lengths of a prompt around everything that happens to a cache: the first and the second time that the window wraps,
/// the ends of blocks (one is compressed when the next is full) and of a page (given back when no window reaches it).
std::vector<int64_t> depths(int64_t window) {
  std::vector<int64_t> result;
  for (const int64_t around : {window, 2 * window, int64_t{64}, int64_t{128}, int64_t{192}, int64_t{256}, 256 + window})
    for (const int64_t depth : {around - 1, around, around + 1}) result.push_back(depth);
  std::sort(result.begin(), result.end());
  return result;
}

/// The logits of kNewTokens behind prompts of all depths. The prompts are one cache that grows, of which a fork
/// decodes.
std::vector<float> decoded(Model& model, std::span<const int32_t> tokens, const std::vector<int64_t>& at) {
  std::vector<float> logits;
  Cache prompt = model.make_cache();
  for (const int64_t depth : at) {
    const auto done = static_cast<size_t>(prompt.length()), end = static_cast<size_t>(depth);
    forward(model, prompt, tokens.subspan(done, end - done));
    Cache cache = prompt.fork();
    for (size_t i = 0; i < kNewTokens; ++i) {
      const std::vector<float> next = forward(model, cache, tokens.subspan(end + i, 1));
      logits.insert(logits.end(), next.begin(), next.end());
    }
  }
  return logits;
}

TEST_P(SlidingWindow, DecodingAroundTheWrapEqualsOnePass) {
  TestCheckpoint checkpoint(*open_checkpoint(kTestData / "micro" / GetParam().name));
  checkpoint.config()["sliding_window"] = GetParam().tokens;
  const std::vector<int64_t> at = depths(GetParam().tokens);
  const std::vector<int32_t> tokens = random_tokens(static_cast<size_t>(at.back()) + kNewTokens, 512, 11);
  std::vector<float> plain;
  for (const char* bits : {"fp16", "8", "k4v3"}) {
    const auto model = load_model(checkpoint, make_cpu_ops(two_threads()),
                                  {.exact = true, .cache = {DType::f16, parse_kv_bits(bits), 0}});
    const int64_t vocab = model->info().vocab_size;
    const std::vector<float> whole = one_pass(*model, tokens), some = decoded(*model, tokens, at);
    std::vector<float> expected;
    for (const int64_t depth : at)
      expected.insert(expected.end(), whole.begin() + depth * vocab,
                      whole.begin() + (depth + static_cast<int64_t>(kNewTokens)) * vocab);
    EXPECT_TRUE(same_bits(some, expected)) << bits;
    if (plain.empty()) plain = some;

    // Against fp16. Tokens that see no compressed ones differ by the rounding of sums: blocks are shorter than pages.
    // Of the others the median counts, as a router may pick another expert.
    std::vector<double> errors;
    for (size_t i = 0; i < at.size() * kNewTokens; ++i) {
      const auto row = [&](const std::vector<float>& x) {
        return std::span(x).subspan(i * static_cast<size_t>(vocab), static_cast<size_t>(vocab));
      };
      const double error = relative_rms(row(some), row(plain));
      const int64_t token = at[i / kNewTokens] + static_cast<int64_t>(i % kNewTokens);
      if (token < 2 * kKvBlockTokens)
        EXPECT_LT(error, 1e-4) << bits << ", token " << token;
      else
        errors.push_back(error);
    }
    ASSERT_FALSE(errors.empty());
    std::nth_element(errors.begin(), errors.begin() + static_cast<std::ptrdiff_t>(errors.size() / 2), errors.end());
    const double error = errors[errors.size() / 2];
    if (bits == std::string("8")) {
      EXPECT_GT(error, 1e-4);  // they are compressed
      EXPECT_LT(error, 0.02);
    }
    if (bits == std::string("k4v3")) {
      EXPECT_LT(error, 0.25);
    }
  }
}

}  // namespace
}  // namespace turboquant
