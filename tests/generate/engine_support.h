// Requests to an engine and what came of them; and the same text written alone, by the model's forward steps.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "core/sanitized.h"
#include "generate/engine.h"
#include "generate/micro.h"
#include "generate/state.h"
#include "models/sampler.h"

namespace turboquant {

inline LanguageModel load_for_engine(const std::string& name, const std::string& bits = "fp16", int64_t start = 0,
                                     int threads = 1) {
  LoadOptions options;
  options.kv.bits = bits;
  options.kv.start = start;
  options.threads = threads;
  return LanguageModel::load((kTestData / "micro" / name).string(), options);
}

struct Answer {
  std::vector<EngineToken> tokens;
  EngineResult result;

  std::vector<int32_t> ids() const {
    std::vector<int32_t> ids;
    for (const EngineToken& token : tokens) ids.push_back(token.token);
    return ids;
  }
};

/// A request whose answer can be waited for. on_token of the request is called, too.
class Asked {
 public:
  Asked(Engine& engine, EngineRequest request) {
    auto answer = std::make_shared<Answer>();
    auto done = std::make_shared<std::promise<Answer>>();
    answer_ = done->get_future();
    const auto on_token = request.on_token;
    request.on_token = [answer, on_token](const EngineToken& token) {
      answer->tokens.push_back(token);
      return !on_token || on_token(token);
    };
    request.on_finish = [answer, done](const EngineResult& result) {
      answer->result = result;
      done->set_value(*answer);
    };
    id_ = engine.submit(std::move(request));
  }

  uint64_t id() const { return id_; }
  bool done() const { return answer_.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }
  Answer wait() {
    if (answer_.wait_for(std::chrono::seconds(120)) != std::future_status::ready) {
      ADD_FAILURE() << "no answer";
      std::abort();  // the engine would wait for ever, too
    }
    return answer_.get();
  }

 private:
  uint64_t id_ = 0;
  std::future<Answer> answer_;
};

inline EngineRequest request_of(std::vector<int32_t> prompt, int max_tokens = 16) {
  EngineRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  return request;
}

/// What a request should write: token by token, alone.
inline std::vector<int32_t> alone(LanguageModel& model, const std::vector<int32_t>& prompt,
                                  const SamplingOptions& sampling, int max_tokens) {
  Sampler sampler(sampling);
  KvCache cache = model.make_cache();
  std::vector<int32_t> text = prompt;
  std::vector<float> logits = model.forward(cache, prompt);
  KvCache::State& state = cache.state();
  if (state.to_be_compressed() && state.options.start < 0) state.compress();
  while (true) {
    const int32_t token = sampler.sample(logits, text, prompt.size());
    if (model.state().end_tokens.contains(token)) break;
    text.push_back(token);
    if (static_cast<int>(text.size() - prompt.size()) == max_tokens ||
        static_cast<int64_t>(text.size()) == model.max_context())
      break;
    logits = model.forward(cache, {token});
  }
  return {text.begin() + static_cast<std::ptrdiff_t>(prompt.size()), text.end()};
}

inline std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace turboquant
