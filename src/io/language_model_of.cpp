// The tensors of the language model among those of a model that also sees, or that predicts several tokens.
#include <algorithm>
#include <array>
#include <map>

#include "io/checkpoint.h"
#include "io/files.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

struct Renaming {
  std::string_view from, to;
};

// Hugging Face nests the text model in the model; mlx-lm nests the whole of it, head included.
constexpr std::array kRenamings{Renaming{"model.language_model.", "model."}, Renaming{"language_model.", ""}};
constexpr std::array<std::string_view, 6> kLeftOut{"model.visual.", "visual.",    "model.vision_tower.",
                                                   "vision_tower.", "model.mtp.", "mtp."};

bool is_left_out(std::string_view name) {
  return std::any_of(kLeftOut.begin(), kLeftOut.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

}  // namespace

std::string language_model_name(const std::string& name) {
  for (const Renaming& rule : kRenamings)
    if (name.starts_with(rule.from)) return std::string(rule.to) + name.substr(rule.from.size());
  return name;
}

namespace {

class LanguageModelCheckpoint final : public Checkpoint {
 public:
  explicit LanguageModelCheckpoint(std::unique_ptr<Checkpoint> whole) : whole_(std::move(whole)) {
    path_ = whole_->path();
    config_ = whole_->config();
    std::map<std::string_view, int64_t> left_out;
    for (const TensorInfo& info : whole_->tensors()) {
      const std::string name = language_model_name(info.name);
      if (is_left_out(name)) {
        for (const std::string_view prefix : kLeftOut)
          if (name.starts_with(prefix)) ++left_out[prefix];
        continue;
      }
      const auto [at, is_new] = source_.emplace(name, info.name);
      if (!is_new)
        throw Error(path_.string() + ": tensors " + quote(at->second) + " and " + quote(info.name) +
                    " are both named " + quote(name) + " in the language model; remove one");
    }
    for (const auto& [name, original] : source_) {
      TensorInfo info = *whole_->find(original);
      info.name = name;
      tensors_.push_back(std::move(info));
    }
    int64_t count = 0;
    std::string prefixes;
    for (const auto& [prefix, tensors] : left_out) {
      count += tensors;
      prefixes += (prefixes.empty() ? "" : ", ") + std::string(prefix) + "* (" + std::to_string(tensors) + ")";
    }
    if (count > 0)
      note_ = "Left out " + std::to_string(count) + " tensors that do not belong to the language model: " + prefixes;
  }

  Tensor read(std::string_view name) const override {
    const auto found = source_.find(name);
    if (found == source_.end()) throw Error(path_.string() + ": no tensor " + quote(std::string(name)));
    return whole_->read(found->second);
  }
  std::optional<std::string> file(std::string_view name) const override { return whole_->file(name); }
  uint64_t size_on_disk() const override { return whole_->size_on_disk(); }
  std::vector<std::shared_ptr<const MappedFile>> mapped_files() const override { return whole_->mapped_files(); }

 private:
  std::unique_ptr<Checkpoint> whole_;
  std::map<std::string, std::string, std::less<>> source_;  // name here -> name in the files, sorted as tensors()
};

}  // namespace

std::unique_ptr<Checkpoint> language_model_of(std::unique_ptr<Checkpoint> checkpoint) {
  const auto& tensors = checkpoint->tensors();
  const bool more = std::any_of(tensors.begin(), tensors.end(), [](const TensorInfo& info) {
    return is_left_out(info.name) || language_model_name(info.name) != info.name;
  });
  if (!more) return checkpoint;
  return std::make_unique<LanguageModelCheckpoint>(std::move(checkpoint));
}

}  // namespace turboquant
