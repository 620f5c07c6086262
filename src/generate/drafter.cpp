#include "generate/drafter.h"

#include <algorithm>

namespace turboquant {
namespace {

class NgramDrafter final : public Drafter {
 public:
  std::vector<int32_t> propose(std::span<const int32_t> history, int64_t most) override {
    const auto size = static_cast<int64_t>(history.size());
    int64_t best_end = 0, best_length = kShortest - 1;
    // From the newest on: of equally long matches the newest is the likeliest to go on alike.
    for (int64_t end = size - 1; end > 0 && best_length < kLongest; --end) {
      int64_t length = 0;
      while (length < kLongest && length < end && history[end - 1 - length] == history[size - 1 - length]) ++length;
      if (length > best_length) {
        best_length = length;
        best_end = end;
      }
    }
    if (best_end == 0) return {};
    // A match that reaches the end of the text is a loop, which goes on from its beginning.
    std::vector<int32_t> draft;
    for (int64_t i = 0; i < most; ++i) draft.push_back(history[best_end + i % (size - best_end)]);
    return draft;
  }

 private:
  static constexpr int64_t kShortest = 2, kLongest = 6;
};

class ModelDrafter final : public Drafter {
 public:
  ModelDrafter(const std::shared_ptr<LanguageModel::State>& model, int64_t vocab_size)
      : cache_(model, model->kv), vocab_size_(vocab_size) {}

  std::vector<int32_t> propose(std::span<const int32_t> history, int64_t most) override {
    const ModelInfo& info = cache_.model->model->info();
    most = std::min(most, info.max_context - static_cast<int64_t>(history.size()));
    if (most < 1) return {};
    cache_.keep_common(history);
    std::span<const int32_t> unread = history.subspan(cache_.tokens.size());
    if (std::any_of(unread.begin(), unread.end(), [&](int32_t token) { return token >= info.vocab_size; })) return {};
    std::vector<int32_t> draft;
    while (static_cast<int64_t>(draft.size()) < most) {
      const Tensor logits = cache_.read(unread);
      const auto* begin = logits.data<float>();
      draft.push_back(
          static_cast<int32_t>(std::max_element(begin, begin + std::min(vocab_size_, logits.elements())) - begin));
      unread = {&draft.back(), 1};
    }
    return draft;
  }

 private:
  KvCache::State cache_;
  int64_t vocab_size_;
};

}  // namespace

std::unique_ptr<Drafter> make_ngram_drafter() { return std::make_unique<NgramDrafter>(); }

std::unique_ptr<Drafter> make_model_drafter(const std::shared_ptr<LanguageModel::State>& model, int64_t vocab_size) {
  return std::make_unique<ModelDrafter>(model, vocab_size);
}

}  // namespace turboquant
