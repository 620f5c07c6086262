// What a loaded LanguageModel consists of, and its caches.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <unordered_set>

#include "io/checkpoint.h"
#include "models/model.h"
#include "ops/profile.h"
#include "text/chat.h"
#include "text/load_tokenizer.h"
#include "turboquant/kv_cache.h"
#include "turboquant/language_model.h"

namespace turboquant {

class Drafter;

struct LanguageModel::State {
  std::shared_ptr<ThreadPool> pool;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> loaded_tokenizer;  // by tokenizer()
  std::optional<ChatTemplate> chat;
  std::unordered_set<int32_t> end_tokens;
  ModelOptions options;
  KvCacheOptions kv;  // of caches that are not made with others
  std::string known_fingerprint;
  std::shared_ptr<Profile> profile;  // if it was asked for: of the last generate(), from its first token on
  Profile prompt_profile;            // and before that

  /// Loaded at the first use: whoever only computes logits never waits for it. Error if the model has none.
  const Tokenizer& tokenizer();
  /// What identifies the weights (cache_file.h); computed at the first use.
  const std::string& fingerprint();
  /// Prompt tokens under the chat template, or of the plain text.
  std::vector<int32_t> prompt_tokens(std::string_view prompt, const GenerateOptions& options);
  /// Tokens of a chat up to where the answer begins. Error: there is no chat template.
  std::vector<int32_t> prompt_tokens(std::span<const ChatMessage> messages);
  /// What the options ask for; null: none. Error: it does not exist, or has another tokenizer.
  std::unique_ptr<Drafter> drafter(const GenerateOptions& options, const std::vector<int32_t>& prompt);
};

/// How caches are made, as a command or caller names it. UsageError: what does not exist or does not fit.
CacheOptions cache_options(const KvCacheOptions& options);

/// The same with other bits.
KvCacheOptions with_bits(KvCacheOptions options, const std::string& bits);

struct KvCache::State {
  std::shared_ptr<LanguageModel::State> model;
  Cache cache;
  std::vector<int32_t> tokens;
  KvCacheOptions options;  // where it is to be compressed later, the cache's own are not yet these

  /// An empty one.
  State(std::shared_ptr<LanguageModel::State> of, const KvCacheOptions& kv);
  /// Feeds tokens, compressing the cache when it has read options.start of them; returns the logits [rows, vocab_size]
  /// of the last ones, which are then fewer than kPrefillTokens.
  Tensor read(std::span<const int32_t> more, int64_t rows = 1);
  /// As Cache::trim().
  int64_t trim(int64_t length);
  /// Forgets what is not the beginning of `text`, and its last token, whose logits are wanted. Returns what is left.
  int64_t keep_common(std::span<const int32_t> text);
  /// Whether it is still to be compressed, as the options say.
  bool to_be_compressed() const;
  void compress();
  /// compress() between a step and the use of its logits: returns them.
  Tensor compress_behind(const Tensor& logits);
};

/// Tokens of a step of prefill().
inline constexpr int64_t kPrefillTokens = 512;

/// Feeds tokens in chunks; returns the logits [rows, vocab_size] of the last ones.
Tensor prefill(Model& model, Cache& cache, std::span<const int32_t> tokens, int64_t rows = 1);

}  // namespace turboquant
