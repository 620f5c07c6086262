// Choosing tokens: each rule alone, on logits small enough to work out by hand.
#include "models/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "core/random.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

const std::vector<float> kLogits = {0.5F, 2.0F, -1.0F, 1.5F, 2.5F, 0.0F};

GenerateOptions at_temperature(float temperature) {
  GenerateOptions options;
  options.temperature = temperature;
  options.seed = 1234;
  return options;
}

/// Share of each token among many draws.
std::map<int32_t, double> shares(const GenerateOptions& options, const std::vector<float>& logits = kLogits,
                                 const std::vector<int32_t>& history = {}, int draws = 20000) {
  Sampler sampler(options);
  std::map<int32_t, double> count;
  for (int i = 0; i < draws; ++i) count[sampler.sample(logits, history)] += 1.0 / draws;
  return count;
}

/// softmax(logits / temperature) over some tokens.
std::map<int32_t, double> expected_shares(double temperature, const std::vector<int32_t>& tokens,
                                          const std::vector<float>& logits = kLogits) {
  std::map<int32_t, double> p;
  double sum = 0;
  for (const int32_t t : tokens) sum += p[t] = std::exp(logits[static_cast<size_t>(t)] / temperature);
  for (auto& [token, share] : p) share /= sum;
  return p;
}

/// Pearson's chi-square test: of 1000 right samplers, one fails; the seed is fixed, so that this one is right for ever.
void expect_distribution(const std::map<int32_t, double>& drawn, const std::map<int32_t, double>& expected,
                         int draws = 20000) {
  constexpr double kCritical[] = {0, 10.83, 13.82, 16.27, 18.47, 20.52};  // at 1 to 5 degrees of freedom
  double statistic = 0;
  for (const auto& [token, p] : expected) {
    const double seen = drawn.contains(token) ? drawn.at(token) : 0;
    statistic += draws * (seen - p) * (seen - p) / p;
  }
  for (const auto& [token, share] : drawn) EXPECT_TRUE(expected.contains(token)) << "token " << token << " was drawn";
  EXPECT_LT(statistic, kCritical[expected.size() - 1]);
}

TEST(Sampler, GreedyTakesTheLargest) {
  EXPECT_EQ(Sampler(at_temperature(0)).sample(kLogits, {}), 4);
  const std::vector<float> equal = {1, 3, 3, 2};
  EXPECT_EQ(Sampler(at_temperature(0)).sample(equal, {}), 1);  // of equals, the first
  GenerateOptions options = at_temperature(0);
  options.top_k = 3;
  options.top_p = 0.5F;
  options.min_p = 0.5F;
  EXPECT_EQ(Sampler(options).sample(kLogits, {}), 4);
}

TEST(Sampler, Temperature) {
  const std::vector<int32_t> all = {0, 1, 2, 3, 4, 5};
  for (const float temperature : {0.5F, 1.0F, 3.0F})
    expect_distribution(shares(at_temperature(temperature)), expected_shares(static_cast<double>(temperature), all));
  const auto cold = shares(at_temperature(0.01F));
  EXPECT_EQ(cold.size(), 1u);
  EXPECT_TRUE(cold.contains(4));
}

TEST(Sampler, LargeLogitsDoNotOverflow) {
  const std::vector<float> logits = {10000, 10001, -30000};
  expect_distribution(shares(at_temperature(1), logits), expected_shares(1, {0, 1}, {0, 1}));
}

TEST(Sampler, TopK) {
  GenerateOptions options = at_temperature(1);
  options.top_k = 1;
  EXPECT_EQ(shares(options, kLogits, {}, 500).size(), 1u);
  EXPECT_EQ(Sampler(options).sample(kLogits, {}), 4);
  options.top_k = 3;
  expect_distribution(shares(options), expected_shares(1, {4, 1, 3}));
  options.top_k = 100;  // more than there are
  expect_distribution(shares(options), expected_shares(1, {0, 1, 2, 3, 4, 5}));
}

TEST(Sampler, TopP) {
  // Probabilities in order: 0.43 (4), 0.26 (1), 0.16 (3), 0.06 (0), ...
  GenerateOptions options = at_temperature(1);
  options.top_p = 1e-6F;
  EXPECT_EQ(shares(options, kLogits, {}, 500).size(), 1u);
  EXPECT_EQ(Sampler(options).sample(kLogits, {}), 4);
  options.top_p = 0.5F;  // 0.43 does not reach it, 0.69 does
  expect_distribution(shares(options), expected_shares(1, {4, 1}));
  options.top_p = 0.8F;
  expect_distribution(shares(options), expected_shares(1, {4, 1, 3}));
  // After top-k the probabilities are those of the tokens left: 0.62 and 0.38.
  options.top_k = 2;
  options.top_p = 0.6F;
  EXPECT_EQ(shares(options, kLogits, {}, 500).size(), 1u);
}

TEST(Sampler, MinP) {
  GenerateOptions options = at_temperature(1);
  options.min_p = 1;
  EXPECT_EQ(shares(options, kLogits, {}, 500).size(), 1u);
  EXPECT_EQ(Sampler(options).sample(kLogits, {}), 4);
  options.min_p = 0.3F;  // relative to the best: e^-0.5 = 0.61, e^-1 = 0.37, e^-2 = 0.14
  expect_distribution(shares(options), expected_shares(1, {4, 1, 3}));
}

TEST(Sampler, RepetitionPenalty) {
  GenerateOptions options = at_temperature(0);
  options.repetition_penalty = 1.5F;
  Sampler greedy(options);
  EXPECT_EQ(greedy.sample(kLogits, {}), 4);
  const std::vector<int32_t> four = {4}, both = {4, 1}, often = {4, 4, 4, 4};
  EXPECT_EQ(greedy.sample(kLogits, four), 1);   // 2.5 / 1.5 is below 2
  EXPECT_EQ(greedy.sample(kLogits, both), 4);   // 1.67 against 1.33 and 1.5
  EXPECT_EQ(greedy.sample(kLogits, often), 1);  // counted once
  options.repetition_penalty = 1.2F;
  EXPECT_EQ(Sampler(options).sample(kLogits, often), 4);
  // Below zero the penalty multiplies.
  options = at_temperature(1);
  options.repetition_penalty = 2;
  const std::vector<int32_t> two = {2};
  expect_distribution(shares(options, kLogits, two),
                      expected_shares(1, {0, 1, 2, 3, 4, 5}, {0.5F, 2.0F, -2.0F, 1.5F, 2.5F, 0.0F}));
}

TEST(Sampler, PresenceAndFrequencyPenalties) {
  GenerateOptions options = at_temperature(0);
  options.presence_penalty = 1.2F;
  const std::vector<int32_t> text = {4, 1, 4, 4, 0};
  EXPECT_EQ(Sampler(options).sample(kLogits, text), 3);     // 1.3 and 0.8 against 1.5
  EXPECT_EQ(Sampler(options).sample(kLogits, text, 5), 4);  // all of it is the prompt
  EXPECT_EQ(Sampler(options).sample(kLogits, text, 2), 1);  // 1.3 against 2
  options.presence_penalty = 0;
  options.frequency_penalty = 0.4F;
  EXPECT_EQ(Sampler(options).sample(kLogits, text), 1);     // 2.5 - 1.2 against 2 - 0.4
  EXPECT_EQ(Sampler(options).sample(kLogits, text, 3), 4);  // 2.5 - 0.4
  options.frequency_penalty = -2;
  options.presence_penalty = -1;
  EXPECT_EQ(Sampler(options).sample(kLogits, text, 4), 0);  // 0.5 + 3
}

TEST(Sampler, Biases) {
  GenerateOptions options = at_temperature(0);
  options.logit_bias = {{2, 3.6F}};
  EXPECT_EQ(Sampler(options).sample(kLogits, {}), 2);
  options.logit_bias = {{4, -INFINITY}, {1, -100.0F}};
  EXPECT_EQ(Sampler(options).sample(kLogits, {}), 3);
  options.temperature = 1;
  expect_distribution(shares(options), expected_shares(1, {0, 2, 3, 5}));
  options.logit_bias = {{6, 1.0F}};
  EXPECT_THROW(Sampler(options).sample(kLogits, {}), UsageError);
}

/// The rules as they are said, in doubles and over sorted tokens.
int32_t plain_sample(const SamplingOptions& options, const std::vector<float>& logits, double random) {
  std::vector<std::pair<double, int32_t>> tokens;  // minus the logit, token
  for (size_t i = 0; i < logits.size(); ++i) tokens.emplace_back(-static_cast<double>(logits[i]), i);
  std::sort(tokens.begin(), tokens.end());
  if (options.top_k > 0) tokens.resize(std::min(tokens.size(), static_cast<size_t>(options.top_k)));
  const double best = tokens.front().first;
  double total = 0;
  for (auto& [p, token] : tokens) total += p = std::exp((best - p) / static_cast<double>(options.temperature));
  double sum = 0;
  size_t count = 0;
  while (count < tokens.size() && (options.top_p == 1 || sum < options.top_p * total)) sum += tokens[count++].first;
  tokens.resize(count);
  std::erase_if(tokens, [&](const auto& token) { return token.first < options.min_p; });
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  total = 0;
  for (const auto& [p, token] : tokens) total += p;
  double left = random * total;
  for (const auto& [p, token] : tokens)
    if ((left -= p) < 0) return token;
  return tokens.back().second;
}

// Vocabularies of all sizes, with logits as flat and as steep as they come, ties and forbidden tokens.
TEST(Sampler, EqualsThePlainRules) {
  std::mt19937_64 random(3);
  for (int turn = 0; turn < 300; ++turn) {
    const size_t vocab = turn % 100 == 0 ? 150000 : 1 + random() % 5000;
    std::vector<float> logits = random_normal(static_cast<uint64_t>(turn), static_cast<int64_t>(vocab));
    const float spread = std::exp2(static_cast<float>(random() % 6) - 2.0F);
    const bool ties = random() % 3 == 0;
    for (float& logit : logits) logit = ties ? std::round(logit * spread) : logit * spread;
    if (random() % 3 == 0)
      for (size_t i = 1; i < vocab; i += 2) logits[i] = -INFINITY;
    GenerateOptions options;
    options.seed = random();
    options.temperature = std::exp2(static_cast<float>(random() % 5) - 3.0F);
    if (random() % 2 == 0) options.top_k = static_cast<int>(1 + random() % (random() % 2 == 0 ? 50 : vocab + 5));
    if (random() % 2 == 0) options.top_p = 0.05F + 0.0499F * static_cast<float>(random() % 20);
    if (random() % 2 == 0) options.min_p = 0.02F * static_cast<float>(random() % 40);
    Sampler sampler(options);
    std::mt19937_64 numbers(*options.seed);
    for (int draw = 0; draw < 5; ++draw) {
      const double number = static_cast<double>(numbers() >> 11) * 0x1p-53;
      ASSERT_EQ(sampler.sample(logits, {}), plain_sample(options, logits, number))
          << "turn " << turn << ": " << vocab << " tokens, temperature " << options.temperature << ", top-k "
          << options.top_k << ", top-p " << options.top_p << ", min-p " << options.min_p;
    }
  }
}

TEST(Sampler, SeedsRepeat) {
  const auto draws = [](std::optional<uint64_t> seed) {
    GenerateOptions options = at_temperature(1);
    options.seed = seed;
    Sampler sampler(options);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 64; ++i) tokens.push_back(sampler.sample(kLogits, {}));
    return tokens;
  };
  EXPECT_EQ(draws(7), draws(7));
  EXPECT_NE(draws(7), draws(8));
  EXPECT_NE(draws(std::nullopt), draws(std::nullopt));  // equal once in 10^29
}

TEST(Sampler, BadValues) {
  struct Case {
    void (*change)(GenerateOptions&);
    const char* expected;
  };
  const Case cases[] = {
      {[](GenerateOptions& o) { o.temperature = -0.1F; }, "--temp -0.1"},
      {[](GenerateOptions& o) { o.temperature = NAN; }, "--temp nan"},
      {[](GenerateOptions& o) { o.temperature = INFINITY; }, "--temp inf"},
      {[](GenerateOptions& o) { o.top_p = 0; }, "--top-p 0"},
      {[](GenerateOptions& o) { o.top_p = 1.5F; }, "--top-p 1.5"},
      {[](GenerateOptions& o) { o.top_p = NAN; }, "--top-p nan"},
      {[](GenerateOptions& o) { o.min_p = -1; }, "--min-p -1"},
      {[](GenerateOptions& o) { o.min_p = 1.01F; }, "--min-p 1.01"},
      {[](GenerateOptions& o) { o.repetition_penalty = 0; }, "--repetition-penalty 0"},
      {[](GenerateOptions& o) { o.repetition_penalty = -1; }, "--repetition-penalty -1"},
      {[](GenerateOptions& o) { o.repetition_penalty = INFINITY; }, "--repetition-penalty inf"},
      {[](GenerateOptions& o) { o.top_k = -1; }, "--top-k -1"},
      {[](GenerateOptions& o) { o.presence_penalty = 2.5F; }, "presence penalty 2.5"},
      {[](GenerateOptions& o) { o.frequency_penalty = NAN; }, "frequency penalty nan"},
      {[](GenerateOptions& o) {
         o.logit_bias = {{1, INFINITY}};
       },
       "bias of a logit inf"},
  };
  for (const Case& c : cases) {
    GenerateOptions options;
    c.change(options);
    try {
      const Sampler sampler(options);
      ADD_FAILURE() << "no error, expected: " << c.expected;
    } catch (const UsageError& error) {
      EXPECT_HAS(std::string(error.what()), c.expected);
      EXPECT_HAS(std::string(error.what()), ": must be ");
    }
  }
}

}  // namespace
}  // namespace turboquant
