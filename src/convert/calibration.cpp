#include "convert/calibration.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "convert/layer_stream.h"
#include "convert/probe.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "nn/roles.h"
#include "quant/drift.h"
#include "quant/ldlq.h"
#include "quant/quantize.h"

namespace turboquant {
namespace {

// Of what plain compression of a matrix loses, calibration leaves this: 0.26 to 0.32 of the layers together, and less
// of those that lose most, between which and the head the choice of bits decides (docs/quality.md).
constexpr double kLeft = 0.2;

/// What was seen of an input, rotated: rows while they are few, as those of one expert among many, then their Hessian.
class InputStatistics {
 public:
  explicit InputStatistics(int64_t width) : width_(width) {}

  /// x: F32 [tokens, width].
  void add(const Tensor& x, ThreadPool& pool) {
    rows_.insert(rows_.end(), x.data<float>(), x.data<float>() + x.elements());
    if (waiting() < width_) return;
    if (!hessian_) hessian_.emplace(width_);
    hessian_->add(rows_.data(), waiting(), pool);
    rows_ = {};
  }

  int64_t width() const { return width_; }

  /// Adds everything to `sum`.
  void add_to(Hessian& sum, ThreadPool& pool) const {
    if (hessian_) sum.add(*hessian_, 1);
    if (waiting() > 0) sum.add(rows_.data(), waiting(), pool);
  }

 private:
  int64_t waiting() const { return static_cast<int64_t>(rows_.size()) / width_; }

  int64_t width_;
  std::vector<float> rows_;
  std::optional<Hessian> hessian_;
};

/// The matrices that read one input.
struct Reading {
  std::vector<const Conversion::Matrix*> matrices;
  InputStatistics input;
  std::optional<Drift> drift;  // not of experts, to which other tokens are routed than in the plain model
  Tensor current;              // what the sequence that is read gives: F32 [tokens, width], rotated
};

class Calibrator {
 public:
  Calibrator(const Checkpoint& source, const Conversion& conversion, const TokenSequences& text,
             const CalibrationOptions& options, std::shared_ptr<ThreadPool> pool, const Conversion::Sink& take,
             const std::set<std::string>& written)
      : source_(source),
        conversion_(conversion),
        text_(text),
        options_(options),
        pool_(std::move(pool)),
        take_(take),
        written_(written),
        compressed_(source, conversion.config(), pool_),
        plain_(source, conversion.config(), pool_),
        matrices_(conversion.matrices()) {
    std::erase_if(matrices_, [](const Conversion::Matrix& matrix) { return matrix.role != Role::linear; });
  }

  std::set<std::string> run(const std::function<Tensor(const std::string&)>& written_tensor) {
    const int64_t layers = model_info(source_.config(), source_.path().string()).n_layers;
    int64_t weights = 0;
    for (const Conversion::Matrix& matrix : matrices_) weights += elements(matrix);
    Progress progress("Calibrating", weights);
    progress_ = &progress;
    compressed_.embed(text_);
    if (corrects()) plain_.embed(text_);
    for (int64_t layer = 0; layer < layers; ++layer) {
      open_layer(layer);
      const bool is_written = std::all_of(open_.begin(), open_.end(), [&](const Conversion::Matrix* matrix) {
        return written_.contains(matrix->module + ".weight") && written_.contains(matrix->module + ".scales");
      });
      if (is_written) {
        for (const Conversion::Matrix* matrix : std::vector(open_)) {
          progress.skip(elements(*matrix));
          close(*matrix, written_tensor(matrix->module + ".weight"), written_tensor(matrix->module + ".scales"));
        }
      }
      while (read_layer(layer)) encode();
      compressed_.forget(layer);
      plain_.forget(layer);
    }
    return std::move(done_);
  }

 private:
  bool corrects() const { return options_.drift > 0; }
  int64_t elements(const Conversion::Matrix& matrix) const { return source_.find(matrix.tensor)->shape.elements(); }

  void open_layer(int64_t layer) {
    open_.clear();
    for (const Conversion::Matrix& matrix : matrices_) {
      if (!matrix.tensor.starts_with(layer_prefix(layer))) continue;
      open_.push_back(&matrix);
      const Rotation rotation = conversion_.rotation(matrix.site);
      if (rotation) compressed_.checkpoint().put(matrix.site + ".signs", rotation.signs);
      if (!corrects()) continue;
      // 8 bits are as good as the source's, and multiplied at the speed of the others.
      QuantSpec precise;
      precise.bits = 8;
      const Weight weight =
          in_source(matrix, [&](const Tensor& tensor) { return quantize(tensor, rotation, precise, pool_.get()); });
      if (rotation) plain_.checkpoint().put(matrix.site + ".signs", rotation.signs);
      plain_.checkpoint().put(matrix.module + ".weight", weight.data);
      plain_.checkpoint().put(matrix.module + ".scales", weight.scales);
    }
  }

  /// The matrix is compressed: it takes the place of the source's.
  void close(const Conversion::Matrix& matrix, const Tensor& weight, const Tensor& scales) {
    for (const auto& [part, tensor] : {std::pair(".weight", weight), std::pair(".scales", scales)}) {
      compressed_.checkpoint().put(matrix.module + part, tensor);
      done_.insert(matrix.module + part);
    }
    std::erase(open_, &matrix);
  }

  /// Runs the text through the layer as far as it is compressed. True if it met matrices that are not, whose inputs it
  /// has seen then; else the text is behind the layer.
  bool read_layer(int64_t layer) {
    readings_.clear();
    std::map<const void*, const Conversion::Matrix*> open, plain;
    for (const Conversion::Matrix* matrix : open_) {
      open[compressed_.weights(matrix->tensor)] = matrix;
      if (corrects()) plain[plain_.weights(matrix->tensor)] = matrix;
    }
    compressed_.load(layer);
    if (corrects()) plain_.load(layer);
    bool met = false;
    for (size_t i = 0; i < text_.size(); ++i) {
      check_interrupt();
      met = !compressed_.run(i, text_[i], [&](std::span<const Product> products) { return see(products, open); });
      if (corrects())
        plain_.run(i, text_[i], [&](std::span<const Product> products) { return compare(products, plain); });
    }
    return met;
  }

  using Matrices = std::map<const void*, const Conversion::Matrix*>;  // by their weights
  static const Conversion::Matrix* find(const Matrices& matrices, const Product& product) {
    const auto found = matrices.find(product.projection.weight->data.data<std::byte>());
    return found == matrices.end() ? nullptr : found->second;
  }

  /// Takes down what the matrices that are not compressed yet read. False if there are none among the products.
  bool see(std::span<const Product> products, const Matrices& open) {
    std::vector<std::pair<const Activations*, std::vector<const Conversion::Matrix*>>> inputs;
    for (const Product& product : products) {
      const Conversion::Matrix* matrix = find(open, product);
      if (matrix == nullptr) continue;
      const auto same = std::find_if(inputs.begin(), inputs.end(), [&](const auto& x) { return x.first == product.x; });
      if (same == inputs.end()) {
        inputs.push_back({product.x, {matrix}});
      } else {
        same->second.push_back(matrix);
      }
    }
    for (const auto& [x, matrices] : inputs) {
      const std::string& module = matrices.front()->module;
      Reading& reading =
          readings_.try_emplace(module, Reading{matrices, InputStatistics(x->width), {}, {}}).first->second;
      if (corrects() && !reading.drift && expert_number(module) < 0) reading.drift.emplace(x->width);
      reading.current = rotated(x->x, conversion_.rotation(matrices.front()->site));
      reading.input.add(reading.current, *pool_);
    }
    return !inputs.empty();
  }

  /// The same for the model without compression: the inputs that were seen, as they would be there.
  bool compare(std::span<const Product> products, const Matrices& plain) {
    bool any = false;
    for (const Product& product : products) {
      const Conversion::Matrix* matrix = find(plain, product);
      if (matrix == nullptr) continue;
      any = true;
      const auto reading = readings_.find(matrix->module);
      if (reading != readings_.end() && reading->second.drift)
        reading->second.drift->add(reading->second.current, product.x->x, *pool_);
    }
    return any;
  }

  Tensor rotated(const Tensor& x, const Rotation& rotation) {
    Tensor result = Tensor::zeros(DType::f32, x.shape());
    pool_->parallel_for(x.dim(0), 16, [&](int64_t begin, int64_t end) {
      load_rows(x, rotation, begin, end, result.data<float>() + begin * x.dim(1));
    });
    return result;
  }

  /// Encodes the matrices whose inputs were seen, and those of experts that no token was routed to.
  void encode() {
    std::map<std::string, Hessian> sites;  // of the inputs of all experts of a layer together
    for (const auto& [module, reading] : readings_)
      if (expert_number(module) >= 0)
        reading.input.add_to(sites.try_emplace(reading.matrices.front()->site, reading.input.width()).first->second,
                             *pool_);
    for (auto& [module, reading] : readings_) {
      Hessian hessian(reading.input.width());
      reading.input.add_to(hessian, *pool_);
      // An expert that saw fewer tokens than its input is wide is filled up with what the other experts saw.
      const double missing = static_cast<double>(hessian.width()) - hessian.tokens();
      if (expert_number(module) >= 0 && missing > 0) {
        const Hessian& all = sites.at(reading.matrices.front()->site);
        hessian.add(all, missing / all.tokens());
      }
      encode(hessian, reading.matrices, reading.drift ? &*reading.drift : nullptr);
    }
    for (const auto& [site, hessian] : sites) {
      std::vector<const Conversion::Matrix*> unseen;
      for (const Conversion::Matrix* matrix : open_)
        if (matrix->site == site) unseen.push_back(matrix);
      if (!unseen.empty()) encode(hessian, unseen, nullptr);
    }
  }

  void encode(const Hessian& hessian, const std::vector<const Conversion::Matrix*>& matrices, Drift* drift) {
    const HessianFactor factors = factor(hessian, options_.damping, *pool_);
    Tensor correction;
    if (drift != nullptr) correction = drift->correction(hessian, factors, options_.drift, *pool_);
    for (const Conversion::Matrix* matrix : matrices) {
      check_interrupt();
      const Rotation rotation = conversion_.rotation(matrix->site);
      const Weight weight = in_source(*matrix, [&](const Tensor& tensor) {
        if (!correction) return ldlq(tensor, rotation, matrix->bits, factors, pool_.get()).weight;
        return ldlq(corrected(rotated(tensor, rotation), correction, *pool_), {}, matrix->bits, factors, pool_.get())
            .weight;
      });
      for (const auto& [part, tensor] : {std::pair(".weight", weight.data), std::pair(".scales", weight.scales)})
        if (!written_.contains(matrix->module + part)) take_(matrix->module + part, tensor);
      close(*matrix, weight.data, weight.scales);
      progress_->advance(elements(*matrix));
    }
  }

  /// What `work` makes of a tensor of the source; errors name it.
  template <typename Work>
  Weight in_source(const Conversion::Matrix& matrix, const Work& work) {
    try {
      return work(compressed_.checkpoint().read(matrix.tensor));
    } catch (const Error& error) {
      throw Error(source_.path().string() + ": tensor '" + matrix.tensor + "' " + error.what());
    }
  }

  const Checkpoint& source_;
  const Conversion& conversion_;
  const TokenSequences& text_;
  const CalibrationOptions& options_;
  std::shared_ptr<ThreadPool> pool_;
  const Conversion::Sink& take_;
  const std::set<std::string>& written_;
  LayerStream compressed_;  // the layer as far as it is compressed, else the source's
  LayerStream plain_;       // the layer in 8 bits, behind others in 8 bits
  std::vector<Conversion::Matrix> matrices_;
  Progress* progress_ = nullptr;
  std::vector<const Conversion::Matrix*> open_;  // of the current layer, not compressed yet
  std::map<std::string, Reading> readings_;      // by the first module that reads the input
  std::set<std::string> done_;
};

}  // namespace

void CalibrationData::prepare(const Checkpoint& source, const CalibrationOptions& options, ConversionSpec& spec,
                              std::shared_ptr<ThreadPool> pool) {
  if (text.empty()) text = calibration_text(source, options, pool);
  if (!spec.budget) return;
  if (losses.empty()) {
    losses = measure_sensitivities(source, spec, text, std::move(pool));
    for (auto& [module, loss] : losses)
      if (role_of(module + ".weight") == Role::linear) loss *= kLeft;
  }
  spec.budget->losses = losses;
}

std::set<std::string> calibrate(const Checkpoint& source, const Conversion& conversion, const TokenSequences& text,
                                const CalibrationOptions& options, std::shared_ptr<ThreadPool> pool,
                                const Conversion::Sink& take, const std::set<std::string>& written,
                                const std::function<Tensor(const std::string&)>& written_tensor) {
  return Calibrator(source, conversion, text, options, std::move(pool), take, written).run(written_tensor);
}

}  // namespace turboquant
