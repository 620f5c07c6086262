#include "generate/needle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/interrupt.h"
#include "core/progress.h"
#include "core/random.h"
#include "generate/state.h"
#include "turboquant/evaluate.h"

namespace turboquant {
namespace {

constexpr std::string_view kTask =
    "Somewhere in the following text a pass key is hidden. Look for it and keep it in mind: there will be a question "
    "about it.\n\n";
// None of them with a number.
constexpr std::array<std::string_view, 6> kSentences = {
    "The river runs past the old mill. ",   "Boats leave at dawn and come back at night. ",
    "There is rain over the hills again. ", "The baker opens his shop early. ",
    "Nobody is on the road at this hour. ", "A dog sleeps in front of the gate. "};
constexpr std::string_view kQuestion = "\n\nWhat is the pass key?";
constexpr std::string_view kAnswer = "The pass key is";
constexpr int64_t kAnswerTokens = 12;  // room for the digits, however they are cut into tokens
constexpr int64_t kShortest = 512, kLongest = 8192;

bool digit(char c) { return c >= '0' && c <= '9'; }

// The number in the answer is there, or behind its first digits something else.
bool complete(std::string_view answer) {
  const auto begin = std::find_if(answer.begin(), answer.end(), digit);
  const auto end = std::find_if_not(begin, answer.end(), digit);
  return begin != answer.end() && (end != answer.end() || end - begin >= static_cast<int64_t>(kNeedleDigits));
}

std::string answer_to(LanguageModel& model, const std::vector<int32_t>& prompt, const KvCacheOptions& options) {
  KvCache cache = model.make_cache(options);
  std::vector<float> logits = model.forward(cache, prompt);
  std::vector<int32_t> answer;
  std::string text;
  while (static_cast<int64_t>(answer.size()) < kAnswerTokens) {
    const auto token = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    if (model.state().end_tokens.contains(token)) break;
    answer.push_back(token);
    text = model.decode(answer);
    if (complete(text)) break;
    logits = model.forward(cache, {token});
  }
  return text;
}

void check_options(const NeedleOptions& options) {
  if (options.trials < 1) throw UsageError("--needle-trials " + std::to_string(options.trials) + ": must be 1 or more");
  if (options.positions.empty()) throw UsageError("--needle-positions: give one at least");
  for (const int position : options.positions)
    if (position < 0 || position > 100)
      throw UsageError("--needle-positions " + std::to_string(position) + ": give a percentage, 0 to 100");
  for (const std::string& bits : options.kv_bits) cache_options(with_bits(options.kv, bits));
}

std::vector<int64_t> lengths_of(const NeedleOptions& options, int64_t context) {
  std::vector<int64_t> lengths = options.lengths;
  if (lengths.empty())
    for (int64_t length = kShortest; length <= std::min(context, kLongest); length *= 2) lengths.push_back(length);
  if (lengths.empty()) lengths.push_back(context);
  for (const int64_t length : lengths)
    if (length > context)
      throw UsageError("--needle-lengths " + std::to_string(length) + ": the model's context is " +
                       std::to_string(context));
  return lengths;
}

/// A prompt, and what all caches should find in it.
struct Hidden {
  size_t cell;
  std::string key;
  std::vector<int32_t> prompt;
};

}  // namespace

std::string needle_text(int64_t sentences, int64_t before, const std::string& key) {
  std::string text(kTask);
  for (int64_t i = 0; i <= sentences; ++i) {
    if (i == before) text += "The pass key is " + key + ". Remember it: " + key + " is the pass key. ";
    if (i < sentences) text += kSentences[static_cast<size_t>(i) % kSentences.size()];
  }
  while (text.ends_with(' ')) text.pop_back();
  return text.append(kQuestion);
}

std::vector<int32_t> needle_prompt(const EncodeNeedle& encode, int64_t tokens, int position, const std::string& key) {
  const auto with = [&](int64_t sentences) {
    return encode(needle_text(sentences, (sentences * position + 50) / 100, key));
  };
  std::vector<int32_t> best = with(0);
  if (static_cast<int64_t>(best.size()) > tokens) return {};
  // Each sentence has one token at least.
  int64_t low = 0, high = tokens;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    std::vector<int32_t> prompt = with(middle);
    if (static_cast<int64_t>(prompt.size()) <= tokens) {
      low = middle;
      best = std::move(prompt);
    } else {
      high = middle - 1;
    }
  }
  return best;
}

std::vector<std::string> needle_keys(uint64_t seed, int64_t n) {
  std::vector<std::string> keys;
  for (const uint32_t bits : random_bits(seed, n)) keys.push_back(std::to_string(10'000 + bits % 90'000));
  return keys;
}

size_t right_digits(std::string_view answer, std::string_view key) {
  answer.remove_prefix(static_cast<size_t>(std::find_if(answer.begin(), answer.end(), digit) - answer.begin()));
  size_t right = 0;
  while (right < std::min(answer.size(), key.size()) && answer[right] == key[right]) ++right;
  return right;
}

std::vector<NeedleResult> find_needles(const NeedleOptions& options) {
  check_options(options);
  LoadOptions load;
  load.threads = options.threads;
  load.exact = options.exact;
  load.revision = options.revision;
  load.preload = options.preload;
  load.lock = options.lock;
  load.on_message = options.on_message;
  LanguageModel model = LanguageModel::load(options.model, load);
  LanguageModel::State& state = model.state();
  const std::vector<int64_t> lengths = lengths_of(options, model.max_context());

  GenerateOptions style;
  style.raw = options.raw;
  const bool chat = !options.raw && model.has_chat_template();
  const EncodeNeedle encode = [&](const std::string& text) {
    if (!chat) return state.prompt_tokens(text + "\n" + std::string(kAnswer), style);
    std::vector<int32_t> tokens = state.prompt_tokens(text, style);
    const std::vector<int32_t> answer = state.tokenizer().encode(kAnswer, false);
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    return tokens;
  };

  const size_t n_cells = lengths.size() * options.positions.size();
  const std::vector<std::string> keys = needle_keys(options.seed, static_cast<int64_t>(n_cells) * options.trials);
  std::vector<NeedleCell> cells;
  std::vector<Hidden> hidden;
  int64_t work = 0;
  for (const int64_t length : lengths)
    for (const int position : options.positions) {
      NeedleCell cell{length, position};
      for (int trial = 0; trial < options.trials; ++trial) {
        const std::string& key = keys[hidden.size()];
        std::vector<int32_t> prompt = needle_prompt(encode, length - kAnswerTokens, position, key);
        if (prompt.empty())
          throw UsageError("--needle-lengths " + std::to_string(length) + ": too short for a question and its answer");
        cell.prompt_tokens = std::max(cell.prompt_tokens, static_cast<int64_t>(prompt.size()));
        work += length;
        hidden.push_back({cells.size(), key, std::move(prompt)});
      }
      cells.push_back(cell);
    }

  std::vector<std::string> caches = {"fp16"};
  caches.insert(caches.end(), options.kv_bits.begin(), options.kv_bits.end());
  std::vector<NeedleResult> results;
  Progress progress("Looking for keys", work * static_cast<int64_t>(caches.size()));
  for (const std::string& kv : caches) {
    NeedleResult result{kv, cells};
    const KvCacheOptions cache = with_bits(options.kv, kv);
    for (const Hidden& needle : hidden) {
      check_interrupt();
      const size_t right = right_digits(answer_to(model, needle.prompt, cache), needle.key);
      NeedleCell& cell = result.cells[needle.cell];
      cell.keys += right == kNeedleDigits ? 1.0 / options.trials : 0;
      cell.digits += static_cast<double>(right) / (kNeedleDigits * options.trials);
      progress.advance(cell.length);
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace turboquant
