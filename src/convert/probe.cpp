#include "convert/probe.h"

#include <algorithm>
#include <numeric>

#include "convert/layer_stream.h"
#include "convert/overlay_checkpoint.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "models/logits.h"
#include "models/model.h"

namespace turboquant {
namespace {

constexpr size_t kSequences = 4, kTokens = 128;
constexpr int kBits = 3;

class Probe {
 public:
  Probe(const Checkpoint& source, const ConversionSpec& spec, const TokenSequences& text,
        std::shared_ptr<ThreadPool> pool)
      : source_(source),
        pool_(std::move(pool)),
        ops_(make_cpu_ops(pool_)),
        precise_(source, with_8_bits(spec)),
        base_checkpoint_(convert_in_memory(source, precise_, *pool_)),
        changed_(*base_checkpoint_, base_checkpoint_->config()),
        base_(load_model(*base_checkpoint_, ops_)) {
    for (size_t i = 0; i < std::min(text.size(), kSequences); ++i)
      text_.emplace_back(text[i].begin(), text[i].begin() + std::min(text[i].size(), kTokens));
    for (const std::vector<int32_t>& sequence : text_) tokens_.insert(tokens_.end(), sequence.begin(), sequence.end());
  }

  std::map<std::string, double> run() {
    std::map<std::string, std::vector<Conversion::Matrix>> units;
    for (const Conversion::Matrix& matrix : precise_.matrices()) units[expert_stack(matrix.module)].push_back(matrix);
    Tensor x = copy(base_->embed(tokens_));
    const Output output = output_of(*base_, through_all(0, x));
    reference_ = {copy(output.logits), copy(output.probabilities)};
    Progress progress("Measuring sensitivity", static_cast<int64_t>(units.size()));
    std::map<std::string, double> losses;
    const auto measure = [&](const std::string& prefix, int64_t layer, const auto& result) {
      for (auto unit = units.lower_bound(prefix); unit != units.end() && unit->first.starts_with(prefix); ++unit) {
        check_interrupt();
        for (const Conversion::Matrix& matrix : unit->second) compress(matrix);
        const std::unique_ptr<Model> model = load_model(changed_, ops_, {.only_layer = layer});
        losses[unit->first] = divergence(result(*model));
        changed_.forget(prefix);
        progress.advance();
      }
    };
    for (const char* ends : {"model.embed_tokens", "lm_head"})
      measure(ends, 0, [&](Model& model) { return output_of(model, through_all(0, copy(model.embed(tokens_)))); });
    for (size_t layer = 0; layer < layers(); ++layer) {
      measure(layer_prefix(static_cast<int64_t>(layer)), static_cast<int64_t>(layer),
              [&](Model& model) { return output_of(*base_, through_all(layer + 1, through(model, 0, x))); });
      x = through(*base_, layer, x);
    }
    return losses;
  }

 private:
  static ConversionSpec with_8_bits(ConversionSpec spec) {
    spec.linear.bits = spec.head_bits = 8;
    spec.bits_for.clear();
    spec.budget.reset();
    spec.allocation.reset();
    return spec;
  }
  size_t layers() const { return static_cast<size_t>(base_->info().n_layers); }
  static Tensor copy(const Tensor& x) { return from_float(x.data<float>(), x.shape(), DType::f32); }

  void compress(const Conversion::Matrix& matrix) {
    QuantSpec quant;
    quant.bits = kBits;
    const Weight weight = quantize(source_.read(matrix.tensor), precise_.rotation(matrix.site), quant, pool_.get());
    changed_.put(matrix.module + ".weight", weight.data);
    changed_.put(matrix.module + ".scales", weight.scales);
  }

  Tensor through(Model& model, size_t layer, const Tensor& x) {
    std::vector<Cache> caches;
    for (size_t i = 0; i < text_.size(); ++i) caches.push_back(model.make_cache());
    std::vector<SequenceTokens> batch;
    for (size_t i = 0; i < text_.size(); ++i) batch.push_back({&caches[i], text_[i]});
    return copy(model.run_layer(layer, x, batch));
  }

  struct Output {
    Tensor logits, probabilities;  // F32 [tokens, vocab_size]
  };

  /// What the layers of the base from `layer` on make of x.
  Tensor through_all(size_t layer, Tensor x) {
    for (; layer < layers(); ++layer) x = through(*base_, layer, x);
    return x;
  }

  /// Valid until the next one.
  Output output_of(Model& model, const Tensor& x) {
    const Tensor logits = model.logits(x);
    return {logits, ops_->softmax(logits)};
  }

  double divergence(const Output& other) {
    const int64_t tokens = other.logits.dim(0), vocab = other.logits.dim(1);
    std::vector<double> each(static_cast<size_t>(tokens));
    pool_->parallel_for(tokens, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const auto row = [&](const Tensor& tensor) { return tensor.data<float>() + t * vocab; };
        const float *x = row(reference_.logits), *p = row(reference_.probabilities), *y = row(other.logits);
        each[static_cast<size_t>(t)] = kl_divergence(x, p, top_of(x, p, vocab).log_sum, y,
                                                     top_of(y, row(other.probabilities), vocab).log_sum, vocab);
      }
    });
    return std::accumulate(each.begin(), each.end(), 0.0) / static_cast<double>(tokens);
  }

  const Checkpoint& source_;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<Ops> ops_;
  const Conversion precise_;
  std::unique_ptr<Checkpoint> base_checkpoint_;
  OverlayCheckpoint changed_;  // the base with the unit that is measured
  std::unique_ptr<Model> base_;
  std::vector<std::vector<int32_t>> text_;
  std::vector<int32_t> tokens_;  // of all of it
  Output reference_;             // of the base
};

}  // namespace

std::map<std::string, double> measure_sensitivities(const Checkpoint& source, const ConversionSpec& spec,
                                                    const TokenSequences& text, std::shared_ptr<ThreadPool> pool) {
  return Probe(source, spec, text, std::move(pool)).run();
}

}  // namespace turboquant
