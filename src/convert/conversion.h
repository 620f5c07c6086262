// Conversion is a function from weights to weights: it walks tensors, never a model.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "convert/original_layout.h"
#include "convert/precision.h"
#include "core/thread_pool.h"
#include "io/checkpoint.h"
#include "nn/roles.h"
#include "quant/quantize.h"

namespace turboquant {

struct ConversionSpec {
  QuantSpec linear;
  int head_bits = 8;               // of embedding and head in TCQ16: 4, 8, or 16 to leave them
  std::vector<BitsRule> bits_for;  // matrices with other bits (in the original's format: 16 alone); the last match wins
  std::optional<BitsBudget> budget;          // instead of linear.bits, and where it has bytes of head_bits
  std::optional<BitsAllocation> allocation;  // what the budget was spent on; if none is given it is chosen
  bool rotate = true;
  uint64_t rotation_seed = 42;
  uint32_t python_hash_seed = 0;  // of path_hash()
  std::optional<DType> dtype;     // of floating-point tensors that stay
};

/// All that a conversion writes, known from headers alone.
class Conversion {
 public:
  /// Error: the source is compressed already, has no linear layer that fits the format, a rule for bits matches
  /// nothing or gives what the format cannot hold, or a budget is too small.
  Conversion(const Checkpoint& source, const ConversionSpec& spec);

  /// The tensors to come, in no particular order.
  std::vector<TensorInfo> outputs() const;
  /// config.json of the result.
  nlohmann::json config() const;
  /// Warnings: layers that stay as they are because their width does not fit.
  const std::vector<std::string>& warnings() const { return warnings_; }
  int64_t linear_layers() const { return linear_layers_; }
  uint64_t parameters() const { return parameters_; }
  /// Bits a weight of the compressed linear layers, without the signs that layers share.
  double bits_per_weight_linear() const;
  /// Weights of linear layers by the bits that they get; 16: those that stay.
  const std::map<int, uint64_t>& linear_weights_by_bits() const { return weights_by_bits_; }

  /// A matrix that becomes TCQ16 or rows of int8.
  struct Matrix {
    std::string tensor, module, site;  // its name in the source, without ".weight", and that of its rotation
    Role role = Role::linear;
    int bits = 0;
  };
  std::vector<Matrix> matrices() const;
  /// The rotation of a site; none if the conversion does not rotate.
  Rotation rotation(const std::string& site) const;

  /// Takes a tensor of the result; called from several threads at a time.
  using Sink = std::function<void(const std::string&, const Tensor&)>;

  /// Makes the tensors and hands each to `take`, but for those that are `written` already. Matrices are worked on side
  /// by side, one a thread; a large one by all threads together. Memory besides what it keeps: a matrix a thread,
  /// and in the formats of others all experts' matrices of one kind of a layer. Shows a progress bar; Ctrl-C unwinds.
  void run(ThreadPool& pool, const Sink& take, const std::set<std::string>& written = {}) const;

 private:
  struct Item {
    std::vector<TensorInfo> sources;  // one, or the same tensor of each expert, which `outputs` stack
    bool stacked = false;
    std::optional<QuantSpec> quant;  // none: stays
    std::string module, site;        // of a quantized one
    std::vector<TensorInfo> outputs;
  };

  // The spec with an allocation that keeps within its budget.
  static ConversionSpec spend(const Checkpoint& source, ConversionSpec spec);
  static std::vector<TensorInfo> tiled_outputs(const std::string& module, int64_t rows, int64_t cols, int bits);
  std::vector<Item> collect() const;
  void plan(Item& item);
  void plan_quantized(Item& item, const QuantSpec& quant);
  struct Work;
  std::vector<std::pair<std::string, Tensor>> make(const Item& item, const TensorInfo& source, const Rotation& rotation,
                                                   ThreadPool& pool) const;
  void make_item(const Item& item, const Work& work) const;
  std::optional<QuantSpec> spec_for(const TensorInfo& tensor, Role role, int bits);
  int bits_of(const Item& item, Role role) const;

  const Checkpoint& source_;
  ConversionSpec spec_;
  std::optional<OriginalLayout> layout_;  // of the original's format and of affine
  std::vector<Item> items_;
  Precision precision_;
  std::map<std::string, int64_t> sites_;  // signs to write: name -> width
  std::vector<std::string> warnings_;
  int64_t linear_layers_ = 0;
  std::map<int, uint64_t> weights_by_bits_;
  uint64_t parameters_ = 0, linear_weights_ = 0, linear_bytes_ = 0;
};

/// The files' metadata: whose format it is.
std::map<std::string, std::string> file_metadata(QuantSpec::Method method);

/// The result of a conversion held in memory, to be evaluated. Files come from `source`, which must outlive it.
/// `first`, if given, may make tensors before the conversion makes the others, and returns their names.
std::unique_ptr<Checkpoint> convert_in_memory(
    const Checkpoint& source, const Conversion& conversion, ThreadPool& pool,
    const std::function<std::set<std::string>(const Conversion::Sink&)>& first = {});

}  // namespace turboquant
