// Linear layers and their loading, whatever format a checkpoint stores them in.
#pragma once

#include <deque>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "nn/repacking.h"
#include "ops/ops.h"
#include "quant/weight.h"

namespace turboquant {

struct Linear {
  Weight weight;
  Rotation rotation;  // of its input
  Tensor bias;        // F32 [rows], or empty
};

/// An input F32 [tokens, width] as the layers that read it want it: rotated and quantized once for all that share a
/// rotation (in the original's files each layer has its own). `exact`: no int8.
class PreparedInput {
 public:
  PreparedInput(Ops& ops, const Tensor& x, bool exact) : ops_(ops), x_(x), exact_(exact) {}

  /// Valid as long as this.
  const Activations& of(const Linear& layer);

 private:
  struct Entry {
    const float* signs;
    bool integers;
    Activations activations;
  };

  Ops& ops_;
  Tensor x_;
  bool exact_;
  std::deque<Entry> entries_;
};

/// y = x W^T + b of layers that read the same x, F32 [tokens, width]. `exact`: no int8.
std::vector<Tensor> project(Ops& ops, const Tensor& x, std::initializer_list<const Linear*> layers, bool exact);

/// Reads the parts of a model from a checkpoint and checks their shapes: an Error names the tensor and both shapes.
class Loader {
 public:
  /// Without `qjl` the QJL residuals of the original's files are left out. `repack_for`: tiled matrices get a copy for
  /// this backend, where that pays.
  explicit Loader(const Checkpoint& checkpoint, bool qjl = true, Ops* repack_for = nullptr)
      : checkpoint_(checkpoint), qjl_(qjl) {
    if (repack_for != nullptr) repacking_.emplace(checkpoint, *repack_for);
  }

  /// `module`: the tensor's name without ".weight". The bias is taken if there is one. `table`: rows are looked up in
  /// it, and it is multiplied with nothing.
  Linear linear(const std::string& module, int64_t rows, int64_t cols, bool table = false);
  /// A vector as F32, such as a norm's weight.
  Tensor vector(const std::string& tensor, int64_t length);
  /// A norm's weight as F32, `offset` added: 1 where a file stores weights around zero.
  Tensor norm(const std::string& tensor, int64_t length, float offset);
  /// The taps of a convolution of each channel for itself, stored [channels, 1, taps] or [channels, taps, 1], as F32
  /// [taps, channels].
  Tensor depthwise(const std::string& tensor, int64_t channels, int64_t taps);
  bool has(const std::string& tensor) const { return checkpoint_.find(tensor) != nullptr; }
  const Checkpoint& checkpoint() const { return checkpoint_; }

 private:
  Weight dense(const std::string& module, int64_t rows, int64_t cols);
  Weight tiled(const std::string& module, int64_t rows, int64_t cols);
  Weight packed(const std::string& module, int64_t rows, int64_t cols);
  QjlResidual residual(const std::string& module, int64_t rows, int64_t cols);
  Rotation rotation(const std::string& tensor, int64_t width);
  /// The name of a part of an expert, or of what all experts share where it has none of its own.
  std::string part(const std::string& module, const char* name) const;
  Tensor read(const std::string& tensor, DType dtype, const Shape& shape);
  /// F16 [length], all finite.
  Tensor finite_halves(const std::string& tensor, int64_t length);
  [[noreturn]] void fail(const std::string& tensor, const std::string& why) const;

  const Checkpoint& checkpoint_;
  bool qjl_;
  std::optional<Repacking> repacking_;
  std::map<std::string, Rotation> rotations_;  // one an input
};

}  // namespace turboquant
