// Compressing a checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "turboquant/error.h"

namespace turboquant {

/// Calibration: the weights are encoded for the inputs that they see while the model reads a text. TCQ16 only.
struct CalibrationOptions {
  std::string text;        ///< "self": text that the model writes; or a text file, or a folder of such; empty: none
  int64_t tokens = 16384;  ///< of text, in sequences of 512
  uint64_t seed = 0;       ///< of the text that the model writes
  double damping = 0.01;   ///< added to the diagonal of an input's Hessian, whose mean is 1
  double drift = 0.5;      ///< how far weights make up for what earlier layers' errors do to their input: 0 to 1
};

struct ConvertOptions {
  std::string model;             ///< Hugging Face folder, .gguf file, or org/name on the hub
  std::string revision;          ///< of a model on the hub: branch, tag or commit; empty: main
  std::string output;            ///< folder to make; must not exist
  std::string format = "tcq16";  ///< "tcq16", or the format of turboquant-mlx: "mlx" or "original"
  /// Of linear layers: 2, 3, 4 or 8, or in TCQ16 any average from 2 to 8: then each matrix (all experts' matrices of
  /// one kind of a layer together) gets 2, 3, 4 or 8 bits, whatever loses least, and the linear layers take at most the
  /// bytes that they would take at `bits` bits a code. Matrices that bits_for fixes count.
  double bits = 3;
  /// Instead of `bits` and `head_bits`, of TCQ16: the size of the files of weights, at most. Embedding and head get 4
  /// or 8 bits, linear layers 2, 3, 4 or 8, whatever loses least. 0: none.
  uint64_t target_bytes = 0;
  int group_size = 64;  ///< of the original's format: 32, 64 or 128 (TCQ16 has groups of 16)
  int head_bits = 8;    ///< of embedding and head in TCQ16: 4, 8, or 16 to leave them
  /// "GLOB=BITS": matrices whose Hugging Face name matches get 2, 3, 4 or 8 bits, or stay as they are (16). Later ones
  /// win. In the original's format: 16 alone. Norms, routers and the gates of shared experts always stay.
  std::vector<std::string> bits_for;
  std::string preset;  ///< a recommended mix on top of 2, 3 or 4 `bits`, before bits_for: "dense", "moe"
  CalibrationOptions calibration;
  std::string rotation = "hadamard";  ///< "hadamard", "blockwise_hadamard" (the same) or "none"
  uint64_t rotation_seed = 42;        ///< of the random signs
  uint32_t python_hash_seed = 0;      ///< of the original's format: the PYTHONHASHSEED that its signs depend on, too
  bool use_qjl = false;               ///< of the original's format: one more bit a weight, for what the codes leave
  std::string dtype;                  ///< of tensors that stay: "float16", "bfloat16", "float32"; empty: as they are
  int threads = 0;                    ///< 0: one a processor; never more
  bool resume = false;                ///< go on with an interrupted conversion to the same folder; and if this one is
                                      ///< interrupted or fails, leave what is done for the next
  /// Called with every line worth telling ("Quantized 210 linear layers ...").
  std::function<void(const std::string&)> on_message;
};

struct ConvertResult {
  uint64_t parameters = 0;            ///< of the source model
  uint64_t bytes = 0;                 ///< of all tensors written
  double bits_per_weight = 0;         ///< of the whole file
  double bits_per_weight_linear = 0;  ///< of the compressed linear layers: codes, indices and scales
  int64_t linear_layers = 0;
  double seconds = 0;
};

/// Converts; the output folder appears whole or not at all. Error: bad options (UsageError), unreadable or damaged
/// source, NaN or Inf weights, output that exists or cannot be written.
ConvertResult convert(const ConvertOptions& options);

}  // namespace turboquant
