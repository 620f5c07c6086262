// Measuring what compression costs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "turboquant/convert.h"
#include "turboquant/error.h"
#include "turboquant/kv_cache.h"

namespace turboquant {

struct EvaluateOptions {
  std::string model;     ///< folder, .gguf file, or org/name on the hub; a converted folder is evaluated as it is
  std::string revision;  ///< of a model on the hub: branch, tag or commit; empty: main
  /// Rows of each format; averages as in ConvertOptions, and 8, are rows of TCQ16 alone.
  std::vector<double> bits = {2, 3, 4};
  std::vector<uint64_t> target_bytes;  ///< rows of TCQ16 of these sizes, as in ConvertOptions
  std::vector<std::string> formats = {"tcq16", "original", "affine"};
  int group_size = 64;                ///< of the original's format and of affine quantization
  int head_bits = 8;                  ///< of embedding and head in TCQ16 rows
  std::vector<std::string> bits_for;  ///< of TCQ16 rows, as in ConvertOptions
  std::string preset;                 ///< the same
  CalibrationOptions calibration;     ///< of TCQ16 rows
  std::string rotation = "hadamard";
  uint64_t rotation_seed = 42;
  uint32_t python_hash_seed = 0;  ///< of the original's format
  /// Rows of the original's format with QJL residuals, too; for a converted folder: with those that it has.
  bool qjl = true;
  int num_samples = 512;             ///< windows
  int seq_len = 512;                 ///< tokens a window
  std::vector<std::string> kv_bits;  ///< rows of the model with a compressed KV cache: "k4v3", "3"
  KvCacheOptions kv;                 ///< of these rows; its `bits` are not used
  std::vector<std::string> texts;    ///< files; every row is measured on each
  /// "original": every next token of a window is scored. "llama.cpp": the second half, BOS first where the model has
  /// it.
  std::string protocol = "original";
  /// Whether the text is a file of WikiText rows, to be joined as the datasets library gives them: blank rows dropped,
  /// "\n\n" between rows that keep their own "\n". "auto": if its first line is a WikiText heading; "yes"; "no".
  std::string rows = "auto";
  bool exact = false;
  bool preload = false, lock = false;  ///< as in LoadOptions, of the source model
  int threads = 0;
  std::function<void(const std::string&)> on_message;
};

/// One row of the table: the model in one format against the baseline, on the same tokens.
struct EvaluateRow {
  /// "FP16", "TCQ16 3-bit", "TCQ16 3.25-bit", "TCQ16 60.0 MB", "TCQ16 3-bit mixed calibrated", "TurboQuant 3-bit", ...
  std::string config;
  std::string format;         ///< "none", "tcq16", "original", "original+qjl", "affine"
  double bits = 16;           ///< as asked for; of a row of a size the bits a weight of the whole
  std::string kv = "fp16";    ///< precision of the KV cache
  double kv_token_bytes = 0;  ///< of the KV cache after a window, a token
  /// Mean cosine of keys and of values to those of fp16, on the first window: of all tokens, and of compressed ones.
  double kv_key_cosine = 1, kv_value_cosine = 1, kv_coded_key_cosine = 1, kv_coded_value_cosine = 1;
  std::string text;  ///< name of the text file
  // Standard errors (_se) take tokens as independent of each other.
  double perplexity = 0, perplexity_se = 0;
  /// log(perplexity / the baseline's on the same text); its error is that of the differences token by token, which is
  /// far less than that of either perplexity.
  double log_change = 0, log_change_se = 0;
  double kl = 0, kl_se = 0, kl_p99 = 0;  ///< mean and 99% quantile of KL(baseline || row) a token, nats
  double top1 = 1, top1_se = 0;          ///< share of tokens where both have the same most likely next token
  uint64_t size_bytes = 0, params = 0;
  double bits_per_weight = 0, bits_per_weight_linear = 0;
  double quantize_s = 0, evaluate_s = 0;
  int64_t tokens_scored = 0;
};

/// For each text the baseline and every (format, bits). All are quantized in memory and scored window by window.
std::vector<EvaluateRow> evaluate(const EvaluateOptions& options);

struct NeedleOptions {
  std::string model;                                  ///< as in EvaluateOptions
  std::string revision;                               ///< the same
  std::vector<std::string> kv_bits;                   ///< of the caches beside fp16: "k4v3", "3"
  KvCacheOptions kv;                                  ///< of these caches; its `bits` are not used
  std::vector<int64_t> lengths;                       ///< tokens of prompt and answer together; empty: 512, 1024, ...,
                                                      ///< up to the model's context, at most 8192
  std::vector<int> positions = {0, 25, 50, 75, 100};  ///< of the key: percent of the text before it
  int trials = 2;                                     ///< keys at each length and position
  uint64_t seed = 0;                                  ///< of the keys
  bool raw = false;                                   ///< without the model's chat template
  bool exact = false;
  bool preload = false, lock = false;  ///< as in LoadOptions
  int threads = 0;
  std::function<void(const std::string&)> on_message;
};

/// What was found at one length and position.
struct NeedleCell {
  int64_t length = 0;
  int position = 0;
  int64_t prompt_tokens = 0;  ///< of the longest prompt
  double keys = 0;            ///< share of keys that were given back whole
  double digits = 0;          ///< share of digits that were right, counted from the left
};

struct NeedleResult {
  std::string kv;                 ///< precision of the KV cache
  std::vector<NeedleCell> cells;  ///< [lengths, positions]
};

/// Hides a random key of five digits in a long text of no meaning, asks for it, and decodes the answer greedily through
/// the real cache: passkey retrieval (Mohtashami, Jaggi 2023, arXiv:2305.16300, "Landmark Attention"). The first result
/// is that of the fp16 cache; all caches are asked for the same keys in the same texts. UsageError: a length that the
/// model cannot take or that is too short for question and answer, a position that is no percentage.
std::vector<NeedleResult> find_needles(const NeedleOptions& options);

}  // namespace turboquant
