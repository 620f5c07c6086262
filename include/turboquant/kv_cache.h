// The KV cache: what a model remembers of a text, and how it keeps that.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "turboquant/error.h"

namespace turboquant {

/// How keys and values are kept. Layers with a sliding window, and states of linear attention, are never compressed.
struct KvCacheOptions {
  std::string dtype = "float16";  ///< of what is not compressed: "float16" or "float32"
  /// "k4v3": keys of 4 bits and values of 3; "3": both. 2, 3, 4 or 8. "fp16": not compressed.
  std::string bits = "fp16";
  /// Of what is compressed. "tcq": trellis codes; the first 16 and the newest 65 to 128 tokens stay exact. "original":
  /// as turboquant-mlx does, all tokens, and all are decoded at every step: for comparison; 2, 3 or 4 bits.
  std::string format = "tcq";
  int group_size = 64;  ///< values with one scale, in the original's format: 32, 64 or 128
  int keep_layers = 0;  ///< so many first and last layers that have a KV cache keep theirs as it is
  /// While fewer tokens are read, nothing is compressed; then the whole cache is. kAfterPrompt: after the prompt.
  int64_t start = 0;
  static constexpr int64_t kAfterPrompt = -1;
};

/// What a model remembers of one text, made by LanguageModel::make_cache() or load_cache(). It keeps the model in
/// memory, and is used by one thread at a time.
class KvCache {
 public:
  ~KvCache();
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;

  /// The tokens that are remembered, from the first on.
  const std::vector<int32_t>& tokens() const;
  /// Bytes that they take up; memory that forks share counts for each of them.
  uint64_t bytes() const;
  /// "fp16", "k4v3".
  std::string bits() const;

  /// A copy that goes on by itself; memory is shared until one of both writes to it.
  KvCache fork() const;
  /// Forgets tokens from the end until `length` at most are left, and as many as can be: a compressed cache goes back
  /// 64 tokens at least, a sliding window not always, a state of linear attention only to the start. Returns how many
  /// are left; the cache then goes on, to the last bit, as one that never saw the others.
  int64_t trim(int64_t length);
  /// Writes a file for LanguageModel::load_cache(): a safetensors file, compressed as the cache is. Error: it cannot be
  /// written.
  void save(const std::string& path) const;

  struct State;  ///< private
  explicit KvCache(std::unique_ptr<State> state);
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

/// Compresses a cache in place, layer by layer. `options.start` has no effect. Error: it is compressed already.
void convert_cache(KvCache& cache, const KvCacheOptions& options);
/// The same with the signature of turboquant-mlx: keys and values of `tq_bits`, 2, 3, 4 or 8, in format "tcq". Its one
/// scale a vector takes the place of groups: `group_size` must be 32, 64 or 128, and has no effect.
void convert_cache_to_turboquant(KvCache& cache, int tq_bits = 3, int group_size = 64);

}  // namespace turboquant
