#include "generate/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <future>
#include <mutex>
#include <optional>
#include <thread>

#include "generate/fair_queue.h"
#include "generate/prefix_files.h"
#include "generate/running_batch.h"

namespace turboquant {
namespace {

void check_options(const EngineOptions& options) {
  if (options.parallel < 1) throw UsageError(fmt::format("--parallel {}: must be 1 or more", options.parallel));
  if (options.queue < 0) throw UsageError(fmt::format("--queue {}: must be 0 or more", options.queue));
  if (options.prefill_chunk < 0)
    throw UsageError(fmt::format("--prefill-chunk {}: must be 0 (by speed) or more", options.prefill_chunk));
  // Said now, not when it is to be written to.
  std::error_code failed;
  if (!options.prompt_cache_dir.empty()) std::filesystem::create_directories(options.prompt_cache_dir, failed);
  if (failed) throw Error(fmt::format("--prompt-cache-dir {}: {}", options.prompt_cache_dir, failed.message()));
}

std::vector<float> unit_mean(const Embedding& embedding) {
  double norm = 0;
  for (const double value : embedding.sum) norm += value * value;
  norm = std::sqrt(norm);
  std::vector<float> unit;
  for (const double value : embedding.sum) unit.push_back(norm > 0 ? static_cast<float>(value / norm) : 0.0F);
  return unit;
}

}  // namespace

class Engine::Impl {
 public:
  Impl(LanguageModel& model, const EngineOptions& options)
      : model_(model.make_cache().state().model), options_(options), batch_(model_, options, totals_) {
    published_ = totals_;
    thread_ = std::thread([this] { run(); });
  }
  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    thread_.join();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  uint64_t submit(EngineRequest&& request) {
    check(request);
    auto sequence = std::make_unique<Sequence>(next_id_.fetch_add(1), std::move(request));
    const uint64_t id = sequence->id;
    {
      const std::lock_guard lock(mutex_);
      check_open();
      if (open_ >= options_.parallel + options_.queue) {
        ++refused_;
        const double each = published_service_ > 0 ? published_service_ : 1;
        const double seconds = each * std::max(1.0, static_cast<double>(waiting_.size()) / 4) / options_.parallel;
        throw QueueFull(fmt::format("{} requests wait already; try again later", waiting_.size()),
                        static_cast<int>(std::clamp(std::ceil(seconds), 1.0, 600.0)));
      }
      waiting_.add(std::move(sequence));
      ++open_;
    }
    work_.notify_one();
    return id;
  }

  void cancel(uint64_t id) {
    {
      const std::lock_guard lock(mutex_);
      cancelled_.push_back(id);
    }
    work_.notify_one();
  }

  std::vector<float> embed(std::span<const int32_t> tokens) {
    check_text(tokens);
    auto job = std::make_unique<EmbeddingJob>();
    job->embedding.tokens.assign(tokens.begin(), tokens.end());
    std::future<std::vector<float>> result = job->result.get_future();
    {
      const std::lock_guard lock(mutex_);
      check_open();
      embeddings_.push_back(std::move(job));
      ++open_;
    }
    work_.notify_one();
    return result.get();
  }

  EngineStatistics statistics() const {
    const std::lock_guard lock(mutex_);
    EngineStatistics now = published_;
    now.waiting = static_cast<int64_t>(waiting_.size());
    now.refused = refused_;
    return now;
  }

  bool drain(double seconds) {
    constexpr double kForEver = 1e8;
    std::unique_lock lock(mutex_);
    draining_ = true;
    return ended_.wait_for(lock, std::chrono::duration<double>(std::min(seconds, kForEver)),
                           [&] { return open_ == 0; });
  }

 private:
  struct EmbeddingJob {
    Embedding embedding;
    std::promise<std::vector<float>> result;
  };

  void check_open() const {
    if (draining_ || stopping_) throw Error("the server is shutting down; it takes no more requests");
  }

  void check_text(std::span<const int32_t> tokens) const {
    const ModelInfo& info = model_->model->info();
    if (tokens.empty()) throw UsageError("the prompt is empty; give some text to continue");
    for (const int32_t token : tokens)
      if (token < 0 || token >= info.vocab_size)
        throw UsageError(fmt::format("token {} is not in the vocabulary of {}", token, info.vocab_size));
    if (static_cast<int64_t>(tokens.size()) > info.max_context)
      throw Error(fmt::format("the text has {} tokens; the model's context is {}: shorten it", tokens.size(),
                              info.max_context));
    const uint64_t needed = batch_.rules().bytes(static_cast<int64_t>(tokens.size()));
    const uint64_t limit = batch_.memory_limit();
    if (needed > limit)
      throw Error(
          fmt::format("the text has {} tokens, whose keys and values need {:.1f} MB; the engine may use {:.1f} "
                      "MB: shorten it, or allow more with --kv-memory",
                      tokens.size(), static_cast<double>(needed) / 1e6, static_cast<double>(limit) / 1e6));
  }

  void check(const EngineRequest& request) const {
    check_text(request.prompt);
    const ModelInfo& info = model_->model->info();
    const auto length = static_cast<int64_t>(request.prompt.size());
    if (request.max_tokens < 0) throw UsageError(fmt::format("max_tokens {}: must be 0 or more", request.max_tokens));
    if (request.logprobs > info.vocab_size)
      throw UsageError(fmt::format("logprobs {}: the vocabulary has {} tokens", request.logprobs, info.vocab_size));
    if (request.max_tokens > 0 && length >= info.max_context)
      throw Error(fmt::format("the prompt has {} tokens; the model's context is {}: shorten the prompt", length,
                              info.max_context));
    for (const auto& [token, bias] : request.sampling.logit_bias)
      if (token < 0 || token >= info.vocab_size)
        throw UsageError(fmt::format("logit_bias: token {} is not in the vocabulary of {}", token, info.vocab_size));
  }

  void run() {
    std::optional<PrefixFiles> files;
    if (!options_.prompt_cache_dir.empty()) {
      files.emplace(options_.prompt_cache_dir, model_, options_.on_message);
      files->load(batch_.prefixes());
    }
    while (true) {
      std::vector<uint64_t> cancelled;
      std::vector<std::unique_ptr<Sequence>> never_begun;
      {
        std::unique_lock lock(mutex_);
        publish();
        work_.wait(lock, [&] {
          return stopping_ || !waiting_.empty() || !cancelled_.empty() || !embeddings_.empty() || !batch_.empty();
        });
        if (stopping_) break;
        cancelled.swap(cancelled_);
        never_begun = waiting_.remove(cancelled);
      }
      for (const auto& sequence : never_begun) batch_.finish(*sequence, Finish::cancelled);
      try {
        batch_.cancel(cancelled);
        admit();
        if (!batch_.empty()) batch_.step();
      } catch (const std::exception& error) {  // none of the model's, which step() keeps to itself: no memory
        batch_.end_all(Finish::error, error.what());
      }
      embed_some();
    }
    end_all();
    if (files) files->save(batch_.prefixes(), options_.prompt_cache_bytes);
  }

  // With the lock held.
  void publish() {
    batch_.count_memory();
    const int64_t ended = totals_.stopped + totals_.full_length + totals_.cancelled + totals_.failed + embedded_;
    open_ -= ended - counted_;
    counted_ = ended;
    published_ = totals_;
    published_service_ = batch_.service_seconds();
    if (open_ == 0) ended_.notify_all();
  }

  void admit() {
    while (static_cast<int>(batch_.size()) < options_.parallel) {
      std::unique_ptr<Sequence> next;
      {
        const std::lock_guard lock(mutex_);
        if (waiting_.empty()) return;
        next = waiting_.take();
      }
      if (batch_.add(next)) continue;
      const std::lock_guard lock(mutex_);
      waiting_.put_back(std::move(next));
      return;
    }
  }

  // A piece of the first text that is to be embedded.
  void embed_some() {
    EmbeddingJob* job = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (embeddings_.empty()) return;
      job = embeddings_.front().get();
    }
    try {
      if (!batch_.step(job->embedding)) return;
      job->result.set_value(unit_mean(job->embedding));
    } catch (...) {
      job->result.set_exception(std::current_exception());
    }
    ++embedded_;
    const std::lock_guard lock(mutex_);
    embeddings_.pop_front();
  }

  void end_all() {
    batch_.end_all(Finish::cancelled);
    std::unique_lock lock(mutex_);
    while (!waiting_.empty()) {
      const std::unique_ptr<Sequence> next = waiting_.take();
      lock.unlock();
      batch_.finish(*next, Finish::cancelled);
      lock.lock();
    }
    for (const auto& job : embeddings_)
      job->result.set_exception(std::make_exception_ptr(Error("the server is shutting down")));
    embeddings_.clear();
    publish();
  }

  const std::shared_ptr<LanguageModel::State> model_;
  const EngineOptions options_;

  // The engine's thread's own.
  EngineStatistics totals_;
  RunningBatch batch_;
  int64_t counted_ = 0, embedded_ = 0;  // requests and texts that have ended

  mutable std::mutex mutex_;  // of all that follows
  std::condition_variable work_, ended_;
  FairQueue<Sequence> waiting_;
  std::vector<uint64_t> cancelled_;
  std::deque<std::unique_ptr<EmbeddingJob>> embeddings_;
  EngineStatistics published_;
  double published_service_ = 0;
  int64_t open_ = 0;  // requests and texts that have not ended
  int64_t refused_ = 0;
  bool draining_ = false, stopping_ = false;
  std::atomic<uint64_t> next_id_ = 1;
  std::thread thread_;
};

Engine::Engine(LanguageModel& model, const EngineOptions& options) {
  check_options(options);
  impl_ = std::make_unique<Impl>(model, options);
}
Engine::~Engine() = default;
uint64_t Engine::submit(EngineRequest request) { return impl_->submit(std::move(request)); }
void Engine::cancel(uint64_t id) { impl_->cancel(id); }
std::vector<float> Engine::embed(std::span<const int32_t> tokens) { return impl_->embed(tokens); }
EngineStatistics Engine::statistics() const { return impl_->statistics(); }
bool Engine::drain(double seconds) { return impl_->drain(seconds); }

}  // namespace turboquant
