// What an engine's caches are like: when they are compressed, which of them serve which text, what they take up.
#pragma once

#include "generate/state.h"

namespace turboquant {

class KvRules {
 public:
  explicit KvRules(std::shared_ptr<LanguageModel::State> model)
      : model_(std::move(model)),
        layers_(model_->model->layer_memory()),
        compressed_(cache_options(model_->kv)),
        first_(KvCache::State(model_, model_->kv).cache.options) {
    const Cache cache = empty();
    goes_back_ = cache.goes_back() && !later();
    for (const LayerMemory& layer : layers_) has_state_ = has_state_ || layer.state_floats > 0;
  }

  Cache empty() const { return model_->model->make_cache(first_); }

  /// Whether caches are compressed when they have so many tokens, not from the start.
  bool later() const { return !(first_ == compressed_); }
  /// How many tokens that is.
  int64_t compress_at(int64_t prompt_tokens) const { return model_->kv.start < 0 ? prompt_tokens : model_->kv.start; }
  bool to_be_compressed(const Cache& cache) const { return later() && cache.options == first_; }
  void compress(Cache& cache) const { convert_cache(model_->model->ops(), cache, compressed_); }

  /// Whether a cache cut back to so many tokens is what reading them would make, whatever the prompt.
  bool fits(const Cache& cache, int64_t length) const {
    if (!later()) return true;
    return to_be_compressed(cache) ? model_->kv.start < 0 || length < model_->kv.start
                                   : model_->kv.start >= 0 && length >= model_->kv.start;
  }

  /// Of one sequence of so many tokens.
  uint64_t bytes(int64_t tokens) const {
    if (tokens <= 0) return 0;
    const bool first = later() && (model_->kv.start < 0 || tokens <= model_->kv.start);
    const CacheBytes all = cache_bytes(model_->model->ops(), layers_, first ? first_ : compressed_, tokens);
    return all.kv + all.state;
  }
  /// Whether a cache can always go back to any length.
  bool goes_back() const { return goes_back_; }
  /// Tokens between two places of a prompt at which caches are kept that cannot go back; a state is large.
  int64_t spacing() const { return has_state_ ? 1024 : 256; }

 private:
  std::shared_ptr<LanguageModel::State> model_;
  std::vector<LayerMemory> layers_;
  CacheOptions compressed_, first_;  // as caches are in the end, and at the beginning
  bool goes_back_ = false, has_state_ = false;
};

}  // namespace turboquant
