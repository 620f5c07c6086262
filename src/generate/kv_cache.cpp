#include "turboquant/kv_cache.h"

#include <algorithm>

#include "generate/cache_file.h"
#include "generate/state.h"

namespace turboquant {

CacheOptions cache_options(const KvCacheOptions& options) {
  if (options.dtype != "float16" && options.dtype != "float32")
    throw UsageError("--cache-dtype " + options.dtype + ": use float16 or float32");
  if (options.keep_layers < 0)
    throw UsageError("--kv-keep-layers " + std::to_string(options.keep_layers) + ": must be 0 or more");
  if (options.format != "tcq" && options.format != "original")
    throw UsageError("--kv-format " + options.format + ": use tcq or original");
  if (options.group_size != 32 && options.group_size != 64 && options.group_size != 128)
    throw UsageError("--kv-group-size " + std::to_string(options.group_size) + ": use 32, 64 or 128");
  if (options.start < KvCacheOptions::kAfterPrompt)
    throw UsageError("--kv-start " + std::to_string(options.start) + ": a number of tokens, or prompt");
  const CacheOptions result{options.dtype == "float32" ? DType::f32 : DType::f16, parse_kv_bits(options.bits),
                            options.keep_layers, options.format == "original" ? KvFormat::original : KvFormat::tcq,
                            options.group_size};
  if (result.kv_bits.compressed() && result.dtype != DType::f16)
    throw UsageError("--kv-bits " + options.bits +
                     ": a compressed cache keeps its newest tokens in float16; leave out " + "--cache-dtype");
  if (result.format == KvFormat::original && (result.kv_bits.keys == 8 || result.kv_bits.values == 8))
    throw UsageError("--kv-bits " + options.bits + ": the original's format has 2, 3 and 4 bits");
  return result;
}

KvCacheOptions with_bits(KvCacheOptions options, const std::string& bits) {
  options.bits = bits;
  return options;
}

KvCache::State::State(std::shared_ptr<LanguageModel::State> of, const KvCacheOptions& kv)
    : model(std::move(of)), options(kv) {
  CacheOptions now = cache_options(options);
  cache = model->model->make_cache(now);  // what cannot be compressed later is said at once
  if (options.start == 0) return;
  now.kv_bits = {};
  cache = model->model->make_cache(now);
}

bool KvCache::State::to_be_compressed() const {
  return options.start != 0 && parse_kv_bits(options.bits).compressed() && !cache.options.kv_bits.compressed();
}

void KvCache::State::compress() { convert_cache(model->model->ops(), cache, cache_options(options)); }

Tensor KvCache::State::compress_behind(const Tensor& logits) {
  Tensor copy = to_float(logits);  // the backend's memory is used anew
  compress();
  return copy;
}

int64_t KvCache::State::trim(int64_t length) {
  const int64_t left = cache.trim(length);
  tokens.resize(static_cast<size_t>(left));
  return left;
}

int64_t KvCache::State::keep_common(std::span<const int32_t> text) {
  const auto most = text.end() - 1;
  return trim(std::mismatch(text.begin(), most, tokens.begin(), tokens.end()).first - text.begin());
}

Tensor KvCache::State::read(std::span<const int32_t> more, int64_t rows) {
  Tensor logits;
  while (!more.empty()) {
    size_t count = more.size();
    const bool later = to_be_compressed() && options.start > 0;
    if (later && options.start > cache.length())
      count = std::min(count, static_cast<size_t>(options.start - cache.length()));
    try {
      logits = prefill(*model->model, cache, more.first(count), rows);
    } catch (...) {  // between two steps: what the first of them read is in no list of tokens yet
      trim(static_cast<int64_t>(tokens.size()));
      throw;
    }
    tokens.insert(tokens.end(), more.begin(), more.begin() + static_cast<std::ptrdiff_t>(count));
    more = more.subspan(count);
    if (later && cache.length() >= options.start) logits = compress_behind(logits);
  }
  return logits;
}

KvCache::KvCache(std::unique_ptr<State> state) : state_(std::move(state)) {}
KvCache::~KvCache() = default;
KvCache::KvCache(KvCache&&) noexcept = default;
KvCache& KvCache::operator=(KvCache&&) noexcept = default;

const std::vector<int32_t>& KvCache::tokens() const { return state_->tokens; }
uint64_t KvCache::bytes() const { return state_->cache.bytes(); }
std::string KvCache::bits() const { return to_string(state_->cache.options.kv_bits); }

KvCache KvCache::fork() const {
  auto copy = std::make_unique<State>(state_->model, state_->options);
  copy->cache = state_->cache.fork();
  copy->tokens = state_->tokens;
  return KvCache(std::move(copy));
}

int64_t KvCache::trim(int64_t length) { return state_->trim(length); }

void KvCache::save(const std::string& path) const { save_cache(path, *state_); }

void convert_cache(KvCache& cache, const KvCacheOptions& options) {
  KvCache::State& state = cache.state();
  const CacheOptions wanted = cache_options(options);
  if (!wanted.kv_bits.compressed()) throw UsageError("fp16: nothing to compress to; use bits such as k4v3");
  if (wanted.dtype != state.cache.options.dtype)
    throw UsageError("a cache of float32 cannot be compressed; make it of float16");
  convert_cache(state.model->model->ops(), state.cache, wanted);
  state.options = options;
  state.options.start = 0;
}

void convert_cache_to_turboquant(KvCache& cache, int tq_bits, int group_size) {
  KvCacheOptions options;
  options.bits = std::to_string(tq_bits);
  options.group_size = group_size;
  convert_cache(cache, options);
}

}  // namespace turboquant
