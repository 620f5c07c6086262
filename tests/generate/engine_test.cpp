// Many requests at once: each gets what it would get alone, whatever else runs, is cancelled, fails or has no memory.
#include "generate/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string_view>
#include <thread>

#include "generate/engine_support.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

struct Wish {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  int max_tokens = 0;
};

/// Prompts of all lengths, some of which begin alike; greedy and not.
std::vector<Wish> random_wishes(size_t count, int64_t vocab, uint32_t seed, size_t longest = 700) {
  std::mt19937 random(seed);
  std::vector<Wish> wishes(count);
  const std::vector<int32_t> shared = random_tokens(longest, vocab, seed + 1000);
  for (size_t i = 0; i < count; ++i) {
    Wish& wish = wishes[i];
    const size_t own = 1 + random() % (random() % 3 == 0 ? longest / 2 : 30);
    if (random() % 2 == 0) wish.prompt.assign(shared.begin(), shared.begin() + random() % (longest / 2));
    wish.prompt = joined(wish.prompt, random_tokens(own, vocab, static_cast<uint32_t>(seed * 100 + i)));
    wish.max_tokens = 1 + static_cast<int>(random() % 24);
    wish.sampling.temperature = random() % 2 == 0 ? 0.0F : 0.3F + 0.1F * static_cast<float>(random() % 10);
    wish.sampling.seed = random();
    if (random() % 3 == 0) wish.sampling.top_p = 0.8F;
    if (random() % 3 == 0) wish.sampling.top_k = 20;
    if (random() % 4 == 0) wish.sampling.repetition_penalty = 1.3F;
    if (random() % 4 == 0) wish.sampling.frequency_penalty = 0.5F;
  }
  return wishes;
}

EngineRequest as_request(const Wish& wish) {
  EngineRequest request;
  request.prompt = wish.prompt;
  request.sampling = wish.sampling;
  request.max_tokens = wish.max_tokens;
  return request;
}

/// All at once, some of them cancelled on the way, on engines of several sizes.
void expect_as_alone(LanguageModel& model, const std::vector<Wish>& wishes, const EngineOptions& options, uint32_t seed,
                     const std::string& what) {
  std::vector<std::vector<int32_t>> expected;
  for (const Wish& wish : wishes) expected.push_back(alone(model, wish.prompt, wish.sampling, wish.max_tokens));
  Engine engine(model, options);
  std::mt19937 random(seed);
  std::vector<Asked> asked;
  for (size_t i = 0; i < wishes.size(); ++i) {
    asked.emplace_back(engine, as_request(wishes[i]));
    if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 5));
    if (i % 5 == 4) engine.cancel(asked.back().id());
  }
  for (size_t i = 0; i < wishes.size(); ++i) {
    const Answer answer = asked[i].wait();
    std::vector<int32_t> wanted = expected[i];
    if (answer.result.finish == Finish::cancelled) {
      EXPECT_EQ(i % 5, 4u);
      ASSERT_LE(answer.tokens.size(), wanted.size());
      wanted.resize(answer.tokens.size());
    }
    EXPECT_EQ(answer.ids(), wanted) << what << ", request " << i << " of " << wishes[i].prompt.size() << " tokens, "
                                    << answer.result.cached_tokens << " cached: " << answer.result.error;
    EXPECT_EQ(answer.result.completion_tokens, static_cast<int64_t>(answer.tokens.size()));
    EXPECT_LT(answer.result.cached_tokens, static_cast<int64_t>(wishes[i].prompt.size()));
  }
  const EngineStatistics now = engine.statistics();
  EXPECT_LE(now.kv_bytes, now.kv_limit);
}

TEST(Engine, EachGetsWhatItWouldGetAlone) {
  for (const char* name : {"llama", "gpt_oss", "qwen3_5"})
    for (const char* bits : {"fp16", "k4v3"}) {
      if (kSanitized && std::string_view(bits) == "fp16") continue;
      LanguageModel model = load_for_engine(name, bits);
      const std::vector<Wish> wishes = random_wishes(kSanitized ? 4 : 20, model.vocab_size(), 1);
      EngineOptions options;
      expect_as_alone(model, wishes, options, 1, std::string(name) + " " + bits);
      options.parallel = 3;
      options.prefill_chunk = 37;
      expect_as_alone(model, wishes, options, 2, std::string(name) + " " + bits + ", three at a time");
    }
}

TEST(Engine, OnSeveralThreads) {
  LanguageModel model = load_for_engine("llama", "fp16", 0, 2);
  expect_as_alone(model, random_wishes(6, model.vocab_size(), 6, 200), {}, 6, "two threads");
}

TEST(Engine, CachesThatAreCompressedLater) {
  for (const int64_t start : {int64_t{150}, KvCacheOptions::kAfterPrompt}) {
    LanguageModel model = load_for_engine("llama", "k4v3", start);
    expect_as_alone(model, random_wishes(kSanitized ? 3 : 16, model.vocab_size(), 2, 500), {}, 3,
                    "start " + std::to_string(start));
  }
}

TEST(Engine, WithoutAPrefixCache) {
  LanguageModel model = load_for_engine("llama");
  EngineOptions options;
  options.prefix_cache = false;
  expect_as_alone(model, random_wishes(kSanitized ? 4 : 12, model.vocab_size(), 3), options, 4, "no prefix cache");
}

// Memory for about three of the texts: the others wait, or give back what they have and read it again.
TEST(Engine, LittleMemory) {
  for (const char* name : {"llama", "qwen3_5"})
    for (const char* bits : {"fp16", "k4v3"}) {
      if (kSanitized && (std::string_view(bits) == "fp16" || std::string_view(name) != "llama")) continue;
      LanguageModel model = load_for_engine(name, bits);
      std::vector<Wish> wishes = random_wishes(16, model.vocab_size(), 4);
      for (Wish& wish : wishes) wish.max_tokens = 200;  // grows behind what was thought of at the start
      wishes.resize(8);
      KvCache largest = model.make_cache();
      model.forward(largest, random_tokens(900, model.vocab_size(), 1));
      EngineOptions options;
      options.kv_memory = largest.bytes() * 2;
      expect_as_alone(model, wishes, options, 5, std::string(name) + " " + bits);
    }
}

TEST(Engine, GreedyTextIsThatOfGenerate) {
  LanguageModel model = load_for_engine("llama");
  const std::string prompt = "The quick brown fox jumps over the lazy dog";
  GenerateOptions options;
  options.temperature = 0;
  options.max_tokens = 40;
  const std::vector<int32_t> expected = model.generate(prompt, options).tokens;
  Engine engine(model, {});
  const Answer answer = Asked(engine, request_of(model.encode(prompt), 40)).wait();
  EXPECT_EQ(answer.ids(), expected);
  EXPECT_EQ(answer.result.finish, Finish::length);
  EXPECT_EQ(answer.result.prompt_tokens, static_cast<int64_t>(model.encode(prompt).size()));
  EXPECT_GT(answer.result.prefill_seconds, 0);
  EXPECT_GT(answer.result.decode_seconds, 0);
}

TEST(Engine, HowRequestsEnd) {
  LanguageModel model = load_for_engine("llama");
  const std::vector<int32_t> prompt = random_tokens(30, model.vocab_size(), 5);
  const std::vector<int32_t> expected = alone(model, prompt, request_of(prompt).sampling, 16);
  model.state().end_tokens = {expected[7]};
  const auto first = static_cast<size_t>(std::find(expected.begin(), expected.end(), expected[7]) - expected.begin());
  Engine engine(model, {});
  const Answer stopped = Asked(engine, request_of(prompt)).wait();
  EXPECT_EQ(stopped.result.finish, Finish::stop);
  EXPECT_EQ(stopped.tokens.size(), first);
  EngineRequest all = request_of(prompt);
  all.ignore_end = true;
  const Answer ignored = Asked(engine, std::move(all)).wait();
  EXPECT_EQ(ignored.ids(), expected);
  EXPECT_EQ(ignored.result.finish, Finish::length);
  EngineRequest told = request_of(prompt);
  int count = 0;
  told.ignore_end = true;
  told.on_token = [&](const EngineToken&) { return ++count < 4; };
  const Answer enough = Asked(engine, std::move(told)).wait();
  EXPECT_EQ(enough.result.finish, Finish::stop);
  EXPECT_EQ(enough.tokens.size(), 4u);
  const Answer none = Asked(engine, request_of(prompt, 0)).wait();
  EXPECT_EQ(none.result.finish, Finish::length);
  EXPECT_TRUE(none.tokens.empty());
}

TEST(Engine, TheContextIsTheLimit) {
  MicroCopy copy;
  copy.change("config.json", [](auto& config) { config["max_position_embeddings"] = 40; });
  LanguageModel model = load_micro(copy.path());
  Engine engine(model, {});
  const Answer answer = Asked(engine, request_of(random_tokens(33, model.vocab_size(), 6), 100)).wait();
  EXPECT_EQ(answer.result.finish, Finish::length);
  EXPECT_EQ(answer.tokens.size(), 7u);
  EXPECT_HAS(error_of([&] { engine.submit(request_of(random_tokens(40, model.vocab_size(), 6))); }),
             "the prompt has 40 tokens; the model's context is 40: shorten the prompt");
}

TEST(Engine, WhatIsRefused) {
  LanguageModel model = load_for_engine("llama");
  EngineOptions options;
  options.kv_memory = 300000;  // a page of each of the 4 layers has 65536 bytes
  Engine engine(model, options);
  const auto refused = [&](const std::function<void(EngineRequest&)>& change) {
    EngineRequest request = request_of(std::vector<int32_t>{1, 2, 3});
    change(request);
    return error_of([&] { engine.submit(std::move(request)); });
  };
  EXPECT_HAS(refused([](auto& r) { r.prompt.clear(); }), "the prompt is empty");
  EXPECT_HAS(refused([](auto& r) { r.prompt[1] = 512; }), "token 512 is not in the vocabulary of 512");
  EXPECT_HAS(refused([](auto& r) { r.prompt[1] = -1; }), "token -1 is not");
  EXPECT_HAS(refused([](auto& r) { r.max_tokens = -1; }), "max_tokens -1");
  EXPECT_HAS(refused([](auto& r) { r.sampling.top_p = 2; }), "--top-p 2");
  EXPECT_HAS(refused([](auto& r) { r.sampling.logit_bias = {{512, 1.0F}}; }), "token 512");
  EXPECT_HAS(refused([](auto& r) { r.logprobs = 513; }), "logprobs 513");
  EXPECT_HAS(refused([](auto& r) { r.prompt.assign(300, 1); }), "300 tokens, whose keys and values need 0.5 MB");
  EXPECT_HAS(error_of([&] { engine.embed({}); }), "empty");
  EngineOptions none;
  none.parallel = 0;
  EXPECT_HAS(error_of([&] { Engine(model, none); }), "--parallel 0");
  // Fits, but its answer does not: it ends where the memory does.
  const Answer answer = Asked(engine, request_of(std::vector<int32_t>(250, 1), 100)).wait();
  EXPECT_EQ(answer.result.finish, Finish::length);
  EXPECT_EQ(answer.tokens.size(), 7u);
}

TEST(Engine, AFullQueueRefuses) {
  LanguageModel model = load_for_engine("llama");
  EngineOptions options;
  options.parallel = 1;
  options.queue = 2;
  std::promise<void> go;
  const std::shared_future<void> gone = go.get_future().share();
  Engine engine(model, options);
  std::vector<Asked> asked;
  for (int i = 0; i < 3; ++i) {
    EngineRequest request = request_of({1, 2, 3}, 3);
    request.on_token = [gone](const EngineToken&) {
      gone.wait();
      return true;
    };
    asked.emplace_back(engine, std::move(request));
  }
  try {
    engine.submit(request_of({1, 2, 3}));
    ADD_FAILURE() << "not refused";
  } catch (const QueueFull& full) {
    EXPECT_GE(full.retry_after_seconds, 1);
    EXPECT_HAS(std::string(full.what()), "requests wait already");
  }
  EXPECT_EQ(engine.statistics().refused, 1);
  go.set_value();
  for (Asked& one : asked) EXPECT_EQ(one.wait().tokens.size(), 3u);
  while (engine.statistics().running > 0) std::this_thread::yield();
  EXPECT_EQ(Asked(engine, request_of({1, 2, 3}, 3)).wait().tokens.size(), 3u);
}

// One client has a hundred requests, another comes with two: they do not wait for the hundred.
TEST(Engine, ClientsTakeTurns) {
  LanguageModel model = load_for_engine("llama");
  EngineOptions options;
  options.parallel = 1;
  Engine engine(model, options);
  std::vector<std::string> order;  // written by the engine's thread alone
  std::vector<Asked> asked;
  std::promise<void> go;
  const std::shared_future<void> gone = go.get_future().share();
  const auto ask = [&](const std::string& client) {
    EngineRequest request = request_of({1, 2, static_cast<int32_t>(asked.size())}, 1);
    request.client = client;
    request.on_token = [&order, client, gone](const EngineToken&) {
      gone.wait();
      order.push_back(client);
      return true;
    };
    asked.emplace_back(engine, std::move(request));
  };
  for (int i = 0; i < 100; ++i) ask("many");
  ask("few");
  ask("few");
  ask("one");
  go.set_value();
  for (Asked& one : asked) one.wait();
  ASSERT_EQ(order.size(), 103u);
  const std::multiset<std::string> first(order.begin(), order.begin() + 7);
  EXPECT_EQ(first.count("few"), 2u);
  EXPECT_EQ(first.count("one"), 1u);
}

/// An on_token that says when the first token has come, and then holds the engine.
std::function<bool(const EngineToken&)> held_at_first(std::promise<void>& begun, std::promise<void>& go) {
  return [&begun, gone = go.get_future().share(), first = true](const EngineToken&) mutable {
    if (std::exchange(first, false)) begun.set_value();
    gone.wait();
    return true;
  };
}

TEST(Engine, CancellingFreesTheSlot) {
  LanguageModel model = load_for_engine("llama");
  EngineOptions options;
  options.parallel = 1;
  Engine engine(model, options);
  std::promise<void> begun, go;
  EngineRequest endless = request_of({1, 2, 3}, 1000);
  endless.on_token = held_at_first(begun, go);
  Asked running(engine, std::move(endless)), waiting(engine, request_of({4, 5}, 1000)),
      next(engine, request_of({6, 7}, 2));
  begun.get_future().wait();
  engine.cancel(waiting.id());
  engine.cancel(running.id());
  go.set_value();
  const Answer never = waiting.wait(), stopped = running.wait();
  EXPECT_EQ(never.result.finish, Finish::cancelled);
  EXPECT_TRUE(never.tokens.empty());
  EXPECT_EQ(stopped.result.finish, Finish::cancelled);
  EXPECT_EQ(stopped.tokens.size(), 1u);  // within one step
  EXPECT_EQ(next.wait().tokens.size(), 2u);
  engine.cancel(next.id());  // has ended
  engine.cancel(12345);      // never was
}

/// Allows some tokens only, then ends; or throws.
class Allow final : public TokenConstraint {
 public:
  Allow(std::set<int32_t> allowed, int count) : allowed_(std::move(allowed)), left_(count) {}
  void mask(std::span<float> logits) override {
    if (left_ < 0) throw std::runtime_error("this constraint is broken");
    for (size_t i = 0; i < logits.size(); ++i)
      if (!allowed_.contains(static_cast<int32_t>(i))) logits[i] = -std::numeric_limits<float>::infinity();
  }
  void accept(int32_t token) override {
    EXPECT_TRUE(allowed_.contains(token));
    --left_;
  }
  bool finished() const override { return left_ == 0; }

 private:
  std::set<int32_t> allowed_;
  int left_;
};

TEST(Engine, Constraints) {
  LanguageModel model = load_for_engine("llama");
  Engine engine(model, {});
  std::vector<Asked> asked;
  for (const float temperature : {0.0F, 1.0F, 5.0F}) {
    EngineRequest request = request_of({1, 2, 3}, 50);
    request.sampling.temperature = temperature;
    request.constraint = std::make_unique<Allow>(std::set<int32_t>{7, 100, 300}, 9);
    asked.emplace_back(engine, std::move(request));
  }
  for (Asked& one : asked) {
    const Answer answer = one.wait();
    EXPECT_EQ(answer.result.finish, Finish::stop);
    EXPECT_EQ(answer.tokens.size(), 9u);
  }
  EngineRequest nothing = request_of({1, 2, 3}, 50);
  nothing.constraint = std::make_unique<Allow>(std::set<int32_t>{}, 9);
  const Answer answer = Asked(engine, std::move(nothing)).wait();
  EXPECT_EQ(answer.result.finish, Finish::error);
  EXPECT_HAS(answer.result.error, "no token may come next");
}

TEST(Engine, OnesErrorIsNotTheOthers) {
  LanguageModel model = load_for_engine("llama");
  const std::vector<int32_t> prompt = random_tokens(20, model.vocab_size(), 8);
  const std::vector<int32_t> expected = alone(model, prompt, request_of(prompt).sampling, 16);
  Engine engine(model, {});
  EngineRequest throws = request_of(prompt), masks = request_of(prompt), finishes = request_of(prompt);
  throws.on_token = [](const EngineToken&) -> bool { throw std::runtime_error("the client is gone"); };
  masks.constraint = std::make_unique<Allow>(std::set<int32_t>{}, -1);
  finishes.on_finish = [](const EngineResult&) { throw std::runtime_error("nobody hears this"); };
  engine.submit(std::move(finishes));
  Asked good(engine, request_of(prompt)), bad(engine, std::move(throws)), broken(engine, std::move(masks));
  EXPECT_EQ(good.wait().ids(), expected);
  const Answer gone = bad.wait();
  EXPECT_EQ(gone.result.finish, Finish::error);
  EXPECT_EQ(gone.result.error, "the client is gone");
  EXPECT_EQ(broken.wait().result.error, "this constraint is broken");
  EXPECT_EQ(Asked(engine, request_of(prompt)).wait().ids(), expected);
}

// Products that throw stand for whatever may go wrong in a step.
TEST(Engine, AStepThatFails) {
  LanguageModel model = load_for_engine("llama");
  std::vector<std::vector<int32_t>> prompts, expected;
  for (uint32_t i = 0; i < 4; ++i) {
    prompts.push_back(random_tokens(20 + i, model.vocab_size(), i));
    expected.push_back(alone(model, prompts[i], request_of(prompts[i]).sampling, 24));
  }
  std::atomic<int> calls = 0, fail_from = 300, fail_until = 301;
  model.state().model->ops().observe_products([&](std::span<const Product>) {
    const int call = calls++;
    if (call >= fail_from && call < fail_until) throw Error("a product failed");
    return true;
  });
  {
    Engine engine(model, {});
    std::vector<Asked> asked;
    for (const auto& prompt : prompts) asked.emplace_back(engine, request_of(prompt, 24));
    for (size_t i = 0; i < asked.size(); ++i) EXPECT_EQ(asked[i].wait().ids(), expected[i]);  // once: all is well
    EXPECT_GT(calls, 301);
    fail_from = 0;  // always
    fail_until = 1 << 30;
    asked.clear();
    for (const auto& prompt : prompts) asked.emplace_back(engine, request_of(prompt, 24));
    for (Asked& one : asked) {
      const Answer answer = one.wait();
      EXPECT_EQ(answer.result.finish, Finish::error);
      EXPECT_EQ(answer.result.error, "a product failed");
    }
    fail_until = 0;
    EXPECT_EQ(Asked(engine, request_of(prompts[0], 24)).wait().ids(), expected[0]);
    EXPECT_EQ(engine.statistics().failed, 4);
  }
  model.state().model->ops().observe_products({});
}

TEST(Engine, Logprobs) {
  LanguageModel model = load_for_engine("llama");
  const std::vector<int32_t> prompt = random_tokens(20, model.vocab_size(), 9);
  KvCache cache = model.make_cache();
  const std::vector<float> logits = model.forward(cache, prompt);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  std::vector<size_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  Engine engine(model, {});
  EngineRequest request = request_of(prompt, 1);
  request.logprobs = 5;
  request.sampling.logit_bias = {{static_cast<int32_t>(order[3]), 50.0F}};  // chosen, but the model's opinion is told
  const Answer answer = Asked(engine, std::move(request)).wait();
  ASSERT_EQ(answer.tokens.size(), 1u);
  EXPECT_EQ(answer.tokens[0].token, static_cast<int32_t>(order[3]));
  EXPECT_NEAR(answer.tokens[0].logprob, logits[order[3]] - std::log(sum), 1e-5);
  ASSERT_EQ(answer.tokens[0].top.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(answer.tokens[0].top[i].token, static_cast<int32_t>(order[i]));
    EXPECT_NEAR(answer.tokens[0].top[i].logprob, logits[order[i]] - std::log(sum), 1e-5);
  }
}

TEST(Engine, Embeddings) {
  for (const char* name : {"llama", "qwen3_5"}) {
    if (kSanitized && std::string_view(name) != "llama") continue;
    LanguageModel model = load_for_engine(name);
    const std::vector<int32_t> text = random_tokens(700, model.vocab_size(), 10);
    Model& inner = *model.state().model;
    Cache cache = inner.make_cache();
    const SequenceTokens whole{&cache, text};
    const Tensor hidden = to_float(inner.hidden({&whole, 1}));
    std::vector<double> mean(static_cast<size_t>(inner.info().hidden_size));
    for (int64_t i = 0; i < hidden.elements(); ++i)
      mean[static_cast<size_t>(i) % mean.size()] += hidden.data<float>()[i];
    double norm = 0;
    for (const double value : mean) norm += value * value;
    const std::vector<int32_t> expected = alone(model, text, request_of(text).sampling, 30);
    Engine engine(model, {});
    Asked beside(engine, request_of(text, 30));
    std::vector<std::vector<float>> vectors(3);
    std::vector<std::thread> threads;
    for (auto& vector : vectors) threads.emplace_back([&] { vector = engine.embed(text); });
    for (std::thread& thread : threads) thread.join();
    for (const auto& vector : vectors) {
      ASSERT_EQ(vector.size(), mean.size());
      for (size_t i = 0; i < mean.size(); ++i) EXPECT_NEAR(vector[i], mean[i] / std::sqrt(norm), 1e-6);
    }
    EXPECT_EQ(beside.wait().ids(), expected);
  }
}

TEST(Engine, Draining) {
  LanguageModel model = load_for_engine("llama");
  Engine engine(model, {});
  std::promise<void> begun, go;
  EngineRequest held = request_of({1, 2, 4}, 4000);
  held.on_token = held_at_first(begun, go);
  EngineRequest other = request_of({1, 2, 3}, 50);
  other.ignore_end = true;
  Asked running(engine, std::move(other)), endless(engine, std::move(held));
  begun.get_future().wait();
  EXPECT_FALSE(engine.drain(0));
  EXPECT_HAS(error_of([&] { engine.submit(request_of({1, 2, 3})); }), "shutting down");
  EXPECT_HAS(error_of([&] { engine.embed(std::vector<int32_t>{1, 2}); }), "shutting down");
  engine.cancel(endless.id());
  go.set_value();
  EXPECT_EQ(running.wait().tokens.size(), 50u);
  EXPECT_TRUE(engine.drain(60));
  EXPECT_EQ(engine.statistics().running, 0);
}

TEST(Engine, TheEndOfAnEngineIsTheEndOfItsRequests) {
  LanguageModel model = load_for_engine("llama");
  std::vector<Asked> asked;
  {
    EngineOptions options;
    options.parallel = 2;
    Engine engine(model, options);
    for (int32_t i = 0; i < 6; ++i) {
      EngineRequest slow = request_of({1, 2, i}, 4000);
      slow.on_token = [](const EngineToken&) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return true;
      };
      asked.emplace_back(engine, std::move(slow));
    }
  }
  for (Asked& one : asked) EXPECT_EQ(one.wait().result.finish, Finish::cancelled);
}

}  // namespace
}  // namespace turboquant
