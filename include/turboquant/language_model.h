// Loading a model and generating text.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "turboquant/chat_message.h"
#include "turboquant/error.h"
#include "turboquant/kv_cache.h"

namespace turboquant {

struct LoadOptions {
  int threads = 0;       ///< 0: one a processor; never more
  bool exact = false;    ///< fp32 activations instead of int8: slower, for comparisons
  KvCacheOptions kv;     ///< of caches that are not made with others
  std::string revision;  ///< of a model on the hub: branch, tag, commit; empty: main
  bool qjl = true;       ///< with the QJL residuals of turboquant-mlx's files
  bool preload = false;  ///< read all weights into memory before the first token
  bool lock = false;     ///< and keep them there (mlock)
  /// With copies of the weights in the order that this processor multiplies fastest, where it is not that of the files
  /// (AVX2), memory has room and they are not locked.
  bool repack = true;
  bool profile = false;                                ///< measure where the time goes
  std::function<void(const std::string&)> on_message;  ///< gets what there is to say of the files, line by line
};

class LanguageModel;

/// How a token is chosen: bias and penalties, temperature, top-k, top-p, min-p, in this order.
struct SamplingOptions {
  float temperature = 0.7F;      ///< 0: greedy
  int top_k = 0;                 ///< 0: off
  float top_p = 1;               ///< 1: off
  float min_p = 0;               ///< 0: off
  float repetition_penalty = 1;  ///< of the tokens of prompt and answer; 1: off (Keskar et al. 2019, CTRL, section 4.1)
  /// Taken from the logits of tokens that the answer has: once, and as often as it has them. -2 to 2; 0: off.
  float presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< token, and what is added to its logit
  std::optional<uint64_t> seed;                       ///< none: a different text every time
};

struct GenerateOptions : SamplingOptions {
  int max_tokens = 200;
  std::vector<std::string> stop;  ///< the text ends before the first of these
  bool raw = false;               ///< the prompt as it is, without the chat template
  std::string system;             ///< system message for the chat template; empty: the template's own
  /// Speculative decoding: tokens that are guessed and checked several at once; the text is the same. "ngram": what
  /// followed where the text's last tokens stood before. Empty: nothing is guessed.
  std::string draft;
  LanguageModel* draft_model = nullptr;  ///< guesses; a smaller model with the same tokenizer
  int draft_max = 16;                    ///< tokens guessed at once, 1 to 64
  /// Goes on from what this cache shares with the prompt; in the end it remembers the prompt and the answer, but for
  /// the last token. None: a new cache.
  KvCache* cache = nullptr;
  /// Called when the cache has read all of the prompt but its last token: what is then saved serves every prompt that
  /// begins so.
  std::function<void()> on_prompt;
};

struct GenerateResult {
  std::string text;
  std::vector<int32_t> tokens;  ///< generated, without the end token
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;   ///< of the prompt, that the cache remembered
  double prefill_seconds = 0;  ///< from the prompt to the first token
  double decode_seconds = 0;   ///< of all further tokens
  std::string finish_reason;  ///< "stop": end token or stop string; "length": max_tokens or a full context; "cancelled"
  uint64_t cache_bytes = 0;
  int64_t drafted_tokens = 0, accepted_tokens = 0;  ///< guessed, and of these what came true
};

/// A model with its tokenizer. One thread at a time.
class LanguageModel {
 public:
  /// Hugging Face folder, folder that convert() wrote, .gguf file, or org/name on the Hugging Face hub, which is
  /// downloaded. Weights stay in the mapped file.
  static LanguageModel load(const std::string& path, const LoadOptions& options = {});
  ~LanguageModel();
  LanguageModel(LanguageModel&&) noexcept;
  LanguageModel& operator=(LanguageModel&&) noexcept;

  /// `on_text` gets the text piece by piece, always whole UTF-8 characters; it returns false to stop.
  GenerateResult generate(std::string_view prompt, const GenerateOptions& options = {},
                          const std::function<bool(std::string_view)>& on_text = {});
  /// Answers the last message of a chat; `options.raw` and `options.system` have no effect. With `options.cache` kept
  /// from answer to answer only what is new is read. Error: the model has no chat template, or it refuses the messages.
  GenerateResult generate(std::span<const ChatMessage> messages, const GenerateOptions& options = {},
                          const std::function<bool(std::string_view)>& on_text = {});
  /// The same with a prompt of tokens, which are read as they are.
  GenerateResult generate(std::span<const int32_t> prompt, const GenerateOptions& options = {},
                          const std::function<bool(std::string_view)>& on_text = {});
  /// A new, empty cache; with the options of load() if none are given. Error: options that do not exist or do not fit.
  KvCache make_cache() const;
  KvCache make_cache(const KvCacheOptions& options) const;
  /// A cache that KvCache::save() wrote; it goes on to the last bit as the saved one. Error: a damaged file, or one of
  /// another model or of other settings than those of load().
  KvCache load_cache(const std::string& path) const;
  /// Feeds tokens, one or more, and returns the logits behind the last one, [vocab_size()]. Error: a token outside the
  /// vocabulary, a text longer than max_context(), a cache of another model.
  std::vector<float> forward(KvCache& cache, const std::vector<int32_t>& tokens);
  /// The same with the logits behind each of the last `rows` tokens, [rows, vocab_size()]. UsageError: rows is not 1 to
  /// the number of tokens.
  std::vector<float> forward(KvCache& cache, std::span<const int32_t> tokens, int64_t rows);

  std::vector<int32_t> encode(std::string_view text, bool add_special = true) const;
  std::string decode(const std::vector<int32_t>& tokens, bool skip_special = true) const;
  bool has_chat_template() const { return !chat_template().empty(); }
  /// The Jinja source; empty: the model has none.
  std::string chat_template() const;
  /// The prompt of a conversation: `messages` is a JSON array of {"role": ..., "content": ...}. Its tokens are
  /// encode(prompt, false): the template writes the begin token itself. Error: no template, or what it raises.
  std::string apply_chat_template(std::string_view messages, bool add_generation_prompt = true) const;
  /// The token that texts begin with, by config.json; none if it names none.
  std::optional<int32_t> begin_token() const;
  /// Those that end an answer, in order.
  std::vector<int32_t> end_tokens() const;
  int64_t vocab_size() const;
  int64_t max_context() const;

  struct State;  ///< private
  State& state() { return *state_; }

 private:
  explicit LanguageModel(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace turboquant
