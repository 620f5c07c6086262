#include "convert/calibration_text.h"

#include <algorithm>
#include <filesystem>

#include "convert/conversion.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "io/config.h"
#include "io/files.h"
#include "models/model.h"
#include "models/sampler.h"
#include "text/load_tokenizer.h"

namespace turboquant {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSequenceTokens = 512;
// Sequences that are written side by side: each step reads all weights once.
constexpr size_t kBatch = 32;
// Openings that lead to different kinds of text, in any language model.
constexpr const char* kStarts[] = {"The", "import", "#", "How", "In", "\"", "What", "1."};

/// The token that a text begins with; the end token where config.json has no other.
int32_t begin_token(const Checkpoint& source) {
  const nlohmann::json config = text_config(source.config(), source.path().string());
  for (const char* key : {"bos_token_id", "eos_token_id"})
    if (const auto found = config.find(key); found != config.end()) {
      if (found->is_number_integer()) return found->get<int32_t>();
      if (found->is_array() && !found->empty() && found->front().is_number_integer())
        return found->front().get<int32_t>();
    }
  return 0;
}

int64_t sequence_length(const ModelInfo& info) { return std::min(kSequenceTokens, info.max_context); }

void check_tokens(const Checkpoint& source, const TokenSequences& sequences, const ModelInfo& info) {
  for (const std::vector<int32_t>& sequence : sequences)
    for (const int32_t token : sequence)
      if (token < 0 || token >= info.vocab_size)
        throw Error(source.path().string() + ": calibration text: token " + std::to_string(token) +
                    " is outside the model's vocabulary of " + std::to_string(info.vocab_size));
}

/// All text files under a path, in the order of their names.
std::string read_texts(const fs::path& path) {
  if (!fs::exists(path)) throw Error(path.string() + ": no such file or folder; --calibrate takes self, FILE or DIR");
  if (!fs::is_directory(path)) return read_text(path);
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::string all;
  for (const fs::path& file : files) {
    const std::string text = read_text(file);
    const std::string_view head = std::string_view(text).substr(0, 4096);
    if (head.find('\0') == head.npos) all += text + "\n\n";
  }
  return all;
}

}  // namespace

TokenSequences own_text(const Checkpoint& source, int64_t tokens, uint64_t seed,
                        const std::shared_ptr<ThreadPool>& pool) {
  ConversionSpec spec;
  spec.linear.bits = 8;
  const Conversion conversion(source, spec);
  const std::unique_ptr<Checkpoint> writer = convert_in_memory(source, conversion, *pool);
  const std::unique_ptr<Model> model = load_model(*writer, make_cpu_ops(pool));
  const int64_t length = sequence_length(model->info());
  const auto count = static_cast<size_t>((tokens + length - 1) / length);
  TokenSequences sequences(count, {begin_token(source)});
  if (source.file("tokenizer.json")) {
    const Tokenizer tokenizer = load_tokenizer(source);
    for (size_t i = 1; i < count; i += 2) {
      const std::vector<int32_t> start = tokenizer.encode(kStarts[i / 2 % std::size(kStarts)], false);
      sequences[i].insert(sequences[i].end(), start.begin(), start.end());
      sequences[i].resize(std::min(sequences[i].size(), static_cast<size_t>(length)));
    }
  }
  check_tokens(source, sequences, model->info());

  Progress progress("Writing calibration text", static_cast<int64_t>(count) * length);
  for (size_t first = 0; first < count; first += kBatch) {
    const size_t batch = std::min(kBatch, count - first);
    std::vector<Cache> caches;
    std::vector<Sampler> samplers;
    for (size_t i = 0; i < batch; ++i) {
      caches.push_back(model->make_cache());
      GenerateOptions options;
      options.temperature = 1;
      options.top_p = 1;
      options.seed = seed + first + i;
      samplers.emplace_back(options);
    }
    std::vector<size_t> read(batch);  // tokens that each cache has
    for (;;) {
      check_interrupt();
      std::vector<SequenceTokens> step;
      std::vector<size_t> open;
      for (size_t i = 0; i < batch; ++i) {
        const std::vector<int32_t>& sequence = sequences[first + i];
        if (static_cast<int64_t>(sequence.size()) >= length) continue;
        const std::span part = std::span(sequence).subspan(read[i]);
        step.push_back({&caches[i], part, static_cast<int64_t>(part.size()) - 1});
        open.push_back(i);
      }
      if (step.empty()) break;
      const Tensor logits = model->forward(step);
      const auto vocab = static_cast<size_t>(logits.dim(1));
      pool->parallel_for(static_cast<int64_t>(open.size()), 1, [&](int64_t begin, int64_t end) {
        for (auto k = static_cast<size_t>(begin); k < static_cast<size_t>(end); ++k) {
          std::vector<int32_t>& sequence = sequences[first + open[k]];
          read[open[k]] = sequence.size();
          sequence.push_back(samplers[open[k]].sample({logits.data<float>() + k * vocab, vocab}, sequence));
        }
      });
      progress.advance(static_cast<int64_t>(open.size()));
    }
  }
  return sequences;
}

TokenSequences text_of_files(const Checkpoint& source, const std::string& path, int64_t tokens) {
  const ModelInfo info = model_info(source.config(), source.path().string());
  const int64_t length = sequence_length(info);
  const std::vector<int32_t> all = load_tokenizer(source).encode(read_texts(path), false);
  const int64_t windows = static_cast<int64_t>(all.size()) / length;
  if (windows == 0)
    throw Error(path + ": " + std::to_string(all.size()) + " tokens of text; calibration needs at least " +
                std::to_string(length));
  const int64_t count = std::clamp<int64_t>(tokens / length, 1, windows);
  TokenSequences sequences;
  for (int64_t i = 0; i < count; ++i) {
    const auto begin = all.begin() + i * windows / count * length;
    sequences.emplace_back(begin, begin + length);
  }
  check_tokens(source, sequences, info);
  return sequences;
}

TokenSequences calibration_text(const Checkpoint& source, const CalibrationOptions& options,
                                const std::shared_ptr<ThreadPool>& pool) {
  return options.text == "self" ? own_text(source, options.tokens, options.seed, pool)
                                : text_of_files(source, options.text, options.tokens);
}

}  // namespace turboquant
