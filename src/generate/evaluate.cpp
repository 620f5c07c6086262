#include "turboquant/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "convert/calibration.h"
#include "convert/conversion.h"
#include "convert/options.h"
#include "core/clock.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "generate/evaluation_text.h"
#include "generate/kv_cosine.h"
#include "generate/state.h"
#include "hub/hub.h"
#include "io/config.h"
#include "io/mlx_quantization.h"
#include "models/logits.h"
#include "models/summary.h"

namespace turboquant {
namespace {

/// One model under evaluation, and what it has scored so far.
struct Candidate {
  EvaluateRow row;
  std::unique_ptr<Checkpoint> checkpoint;  // none: the source itself
  std::shared_ptr<Model> model;
  KvCacheOptions cache;  // how its caches are made
  std::vector<double> nll;
  std::vector<float> kl;
  int64_t same_top = 0;
};

Tensor logits_of(Candidate& candidate, std::span<const int32_t> window, int64_t first) {
  Model& model = *candidate.model;
  const CacheOptions options = cache_options(candidate.cache);
  const auto length = static_cast<int64_t>(window.size()), start = candidate.cache.start;
  Cache cache = model.make_cache(start == 0 ? options : CacheOptions{.dtype = options.dtype});
  Tensor logits;
  if (options.kv_bits.compressed() && start > 0 && start < length) {  // in two parts, compressed between them
    logits = Tensor::zeros(DType::f32, {length - first, model.info().vocab_size});
    const auto read = [&](int64_t begin, int64_t end) {
      const SequenceTokens sequence{&cache,
                                    window.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                                    std::max<int64_t>(first - begin, 0)};
      const Tensor part = model.forward({&sequence, 1});
      std::memcpy(logits.rows(std::max(begin - first, int64_t{0}), end - first).data<float>(), part.data<float>(),
                  part.bytes());
    };
    read(0, start);
    convert_cache(model.ops(), cache, options);
    read(start, length);
  } else {
    const SequenceTokens sequence{&cache, window, first};
    logits = model.forward({&sequence, 1});
  }
  candidate.row.kv_token_bytes = static_cast<double>(cache.bytes()) / static_cast<double>(window.size());
  return logits;
}

void add_sizes(EvaluateRow& row, const Checkpoint& checkpoint) {
  const Summary summary = summarize(checkpoint);
  row.params = summary.all.weights;
  row.size_bytes = summary.all.bytes;
  row.bits_per_weight = summary.all.bits_per_weight();
  row.bits_per_weight_linear = summary.linear.bits_per_weight();
}

/// The specification of a row, and what it is called.
struct Setting {
  QuantSpec quant;
  std::string title, format;
  double bits = 0;  // as asked for; 0: a size
  std::optional<BitsBudget> budget;
};

// In the original's order: each format with all bits, QJL after the plain rows.
std::vector<Setting> settings_of(const EvaluateOptions& options) {
  std::vector<Setting> settings;
  const auto add = [&](const std::string& format, const char* title, const char* suffix, bool qjl) {
    for (const double bits : options.bits) {
      quant_spec("tcq16", bits, options.group_size);  // refuses what no format has
      const bool of_all_formats = bits == 2 || bits == 3 || bits == 4;
      if (format != "tcq16" && !of_all_formats) continue;
      QuantSpec quant = quant_spec(format, bits, options.group_size);
      quant.qjl = qjl;
      settings.push_back({quant, fmt::format("{} {}{}", title, bits, suffix), format + (qjl ? "+qjl" : ""), bits,
                          average_budget(bits)});
    }
    for (const uint64_t bytes : options.target_bytes)
      if (format == "tcq16")
        settings.push_back({quant_spec(format, 3, options.group_size),
                            fmt::format("{} {:.1f} MB", title, static_cast<double>(bytes) * 1e-6), format, 0,
                            size_budget(bytes)});
  };
  for (const std::string& format : options.formats) {
    const bool original = quant_spec(format, 3, options.group_size).method == QuantSpec::Method::original;
    add(original ? "original" : format,
        original            ? "TurboQuant"
        : format == "tcq16" ? "TCQ16"
                            : "Affine",
        "-bit", false);
    if (original && options.qjl) add("original", "TurboQuant", "+QJL", true);
  }
  return settings;
}

/// Of each row with a compressed cache, on one window; read once, without compression.
void add_cosines(std::vector<Candidate>& candidates, std::span<const int32_t> window) {
  Model& model = *candidates.front().model;
  Cache cache = model.make_cache(CacheOptions{});
  prefill(model, cache, window);
  for (Candidate& candidate : candidates) {
    const CacheOptions options = cache_options(candidate.cache);
    if (!options.kv_bits.compressed()) continue;
    const KvCosine cosine = kv_cosine(model.ops(), cache, options);
    candidate.row.kv_key_cosine = cosine.keys;
    candidate.row.kv_value_cosine = cosine.values;
    candidate.row.kv_coded_key_cosine = cosine.coded_keys;
    candidate.row.kv_coded_value_cosine = cosine.coded_values;
  }
}

/// Scores one window of every candidate. The baseline is the first.
class WindowScorer {
 public:
  WindowScorer(ThreadPool& pool, Ops& ops) : pool_(pool), ops_(ops) {}

  void score(std::vector<Candidate>& candidates, std::span<const int32_t> window, int64_t first) {
    const auto count = static_cast<int64_t>(window.size()) - first - 1;  // predictions
    for (Candidate& candidate : candidates) {
      const auto start = Clock::now();
      const Tensor logits = logits_of(candidate, window, first);
      const bool is_baseline = &candidate == candidates.data();
      const Tensor probabilities = ops_.softmax(logits);
      if (is_baseline) {
        baseline_.assign(logits.data<float>(), logits.data<float>() + logits.elements());
        baseline_p_.assign(probabilities.data<float>(), probabilities.data<float>() + logits.elements());
        tops_.assign(static_cast<size_t>(count), {});
      }
      const size_t done = candidate.nll.size();
      candidate.nll.resize(done + static_cast<size_t>(count));
      candidate.kl.resize(candidate.nll.size());
      const int64_t vocab = logits.dim(1);
      std::vector<uint8_t> same(static_cast<size_t>(count));
      pool_.parallel_for(count, 8, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const float* x = logits.data<float>() + t * vocab;
          const Top top = top_of(x, probabilities.data<float>() + t * vocab, vocab);
          Top& reference = tops_[static_cast<size_t>(t)];
          if (is_baseline) reference = top;
          const auto at = done + static_cast<size_t>(t);
          candidate.nll[at] = top.log_sum - static_cast<double>(x[window[static_cast<size_t>(first + t + 1)]]);
          const double kl = kl_divergence(baseline_.data() + t * vocab, baseline_p_.data() + t * vocab,
                                          reference.log_sum, x, top.log_sum, vocab);
          candidate.kl[at] = static_cast<float>(kl);
          same[static_cast<size_t>(t)] = reference.token == top.token ? 1 : 0;
        }
      });
      candidate.same_top += std::count(same.begin(), same.end(), 1);
      candidate.row.evaluate_s += seconds_since(start);
    }
  }

 private:
  ThreadPool& pool_;
  Ops& ops_;
  std::vector<float> baseline_, baseline_p_;  // [predictions, vocab]
  std::vector<Top> tops_;
};

/// Mean and standard error of values(0) .. values(n - 1).
struct Estimate {
  double mean = 0, error = 0;

  template <typename Values>
  Estimate(size_t size, const Values& values) {
    const auto n = static_cast<double>(size);
    double variance = 0;
    for (size_t i = 0; i < size; ++i) mean += values(i) / n;
    for (size_t i = 0; i < size; ++i) variance += (values(i) - mean) * (values(i) - mean) / std::max(n - 1, 1.0);
    error = std::sqrt(variance / n);
  }
};

void finish(Candidate& candidate, const Candidate& baseline) {
  EvaluateRow& row = candidate.row;
  const size_t count = candidate.nll.size();
  const Estimate nll(count, [&](size_t i) { return candidate.nll[i]; });
  const Estimate change(count, [&](size_t i) { return candidate.nll[i] - baseline.nll[i]; });
  const Estimate kl(count, [&](size_t i) { return static_cast<double>(candidate.kl[i]); });
  row.perplexity = std::exp(nll.mean);
  row.perplexity_se = row.perplexity * nll.error;
  row.log_change = change.mean;
  row.log_change_se = change.error;
  row.kl = kl.mean;
  row.kl_se = kl.error;
  const auto n = static_cast<double>(count);
  const auto at = static_cast<std::ptrdiff_t>(0.99 * (n - 1));
  std::nth_element(candidate.kl.begin(), candidate.kl.begin() + at, candidate.kl.end());
  row.kl_p99 = candidate.kl[static_cast<size_t>(at)];
  row.top1 = static_cast<double>(candidate.same_top) / n;
  row.top1_se = std::sqrt(row.top1 * (1 - row.top1) / std::max(n - 1, 1.0));
  row.tokens_scored = static_cast<int64_t>(count);
}

/// Scores the windows of one text; a row of each candidate.
void score_text(std::vector<Candidate>& candidates, const Windows& windows, int64_t first, const std::string& text,
                WindowScorer& scorer, Progress& progress, std::vector<EvaluateRow>& rows) {
  for (Candidate& candidate : candidates) {
    candidate.row.text = std::filesystem::path(text).filename().string();
    candidate.row.evaluate_s = 0;
    candidate.nll.clear();
    candidate.kl.clear();
    candidate.same_top = 0;
  }
  for (int64_t i = 0; i < windows.count(); ++i) {
    check_interrupt();
    scorer.score(candidates, windows.window(i), first);
    progress.advance();
  }
  for (Candidate& candidate : candidates) {
    finish(candidate, candidates.front());
    rows.push_back(candidate.row);
  }
}

void check_options(const EvaluateOptions& options) {
  if (options.seq_len < 2) throw UsageError("--seq-len " + std::to_string(options.seq_len) + ": must be 2 or more");
  if (options.num_samples < 1)
    throw UsageError("--num-samples " + std::to_string(options.num_samples) + ": must be 1 or more");
  if (options.protocol != "original" && options.protocol != "llama.cpp")
    throw UsageError("--protocol " + options.protocol + ": use original or llama.cpp");
  if (options.texts.empty()) throw UsageError("--text: name a text file");
  for (const Setting& setting : settings_of(options)) {
    ConversionSpec spec;
    spec.linear = setting.quant;
    if (setting.format == "tcq16") set_precision(spec, setting.budget, options.preset, options.bits_for);
  }
  check_head_bits(options.head_bits);
  for (const std::string& bits : options.kv_bits) cache_options(with_bits(options.kv, bits));
  if (options.kv.start < 0)
    throw UsageError("--kv-start prompt: the windows of evaluate have no prompt; give a number");
  check_calibration(options.calibration, QuantSpec::Method::tcq16);
  if (std::find(options.formats.begin(), options.formats.end(), "tcq16") != options.formats.end()) return;
  if (!options.bits_for.empty() || !options.preset.empty() || !options.target_bytes.empty() ||
      !options.calibration.text.empty())
    throw UsageError(
        "--bits-for, --preset, --target-size and --calibrate need tcq16 among --formats: other rows have one number "
        "of bits, and are not calibrated");
  for (const double bits : options.bits)
    if (average_budget(bits) || bits == 8)
      throw UsageError(fmt::format("--bits {}: needs tcq16 among --formats: other rows have 2, 3 or 4", bits));
}

}  // namespace

std::vector<EvaluateRow> evaluate(const EvaluateOptions& options) {
  check_options(options);
  const auto say = [&](const std::string& line) {
    if (options.on_message) options.on_message(line);
  };
  const std::unique_ptr<Checkpoint> source = open_model(options.model, options.revision, options.on_message);
  if (!source->note().empty()) say(source->note());
  if (options.preload || options.lock) load_into_memory(*source, options.lock);
  const auto pool = make_thread_pool(options.threads);
  const std::shared_ptr<Ops> ops = make_cpu_ops(pool);
  ModelOptions model_options;
  model_options.exact = options.exact;
  model_options.qjl = options.qjl;

  std::vector<Candidate> candidates(1);
  EvaluateRow& baseline = candidates.front().row;
  baseline.config = "FP16";
  baseline.format = "none";
  candidates.front().model = load_model(*source, ops, model_options);
  const ModelInfo info = candidates.front().model->info();
  const bool llama_cpp = options.protocol == "llama.cpp";
  const Tokenizer tokenizer = load_tokenizer(*source);
  std::vector<Windows> windows;  // of each text
  for (const std::string& text : options.texts) windows.push_back(cut_windows(tokenizer, text, options, llama_cpp));
  if (options.seq_len > info.max_context)
    throw UsageError("--seq-len " + std::to_string(options.seq_len) + ": the model's context is " +
                     std::to_string(info.max_context));
  int64_t n_windows = 0;
  for (const Windows& text : windows) {
    n_windows += text.count();
    for (const int32_t token : text.tokens)
      if (token >= info.vocab_size)
        throw Error(options.model + ": the tokenizer gives token " + std::to_string(token) +
                    ", but the model's vocabulary has " + std::to_string(info.vocab_size));
  }
  add_sizes(baseline, *source);

  const EvaluateRow source_row = baseline;  // candidates may move as they grow
  const std::shared_ptr<Model> source_model = candidates.front().model;
  for (const std::string& bits : options.kv_bits) {
    Candidate candidate;
    candidate.row = source_row;
    candidate.row.kv = bits;
    candidate.row.config = "KV " + bits + (options.kv.format == "tcq" ? "" : " " + options.kv.format);
    candidate.model = source_model;
    candidate.cache = with_bits(options.kv, bits);
    candidates.push_back(std::move(candidate));
  }

  const nlohmann::json quantization = config_object(source->config(), options.model, "quantization");
  if (!quantization.empty()) {
    // A converted folder: its own row, without a baseline to compare with.
    EvaluateRow& own = candidates.front().row;
    own.config = std::filesystem::path(options.model).filename().string();
    const auto mlx = MlxQuantization::of(source->config(), options.model);
    own.format = mlx ? mlx->common().mode : config_string_or(quantization, options.model, "format", "original");
    own.bits = static_cast<int>(config_integer_or(quantization, options.model, "bits", 0));
  } else {
    CalibrationData calibration;
    for (const Setting& setting : settings_of(options)) {
      ConversionSpec spec;
      spec.linear = setting.quant;
      spec.head_bits = options.head_bits;
      if (setting.format == "tcq16") set_precision(spec, setting.budget, options.preset, options.bits_for);
      spec.rotate = rotation_enabled(options.rotation);
      spec.rotation_seed = options.rotation_seed;
      spec.python_hash_seed = options.python_hash_seed;
      const bool calibrated = !options.calibration.text.empty() && setting.format == "tcq16";
      if (calibrated) calibration.prepare(*source, options.calibration, spec, pool);
      const Conversion conversion(*source, spec);
      for (const std::string& warning : conversion.warnings()) say("Warning: " + warning);
      Candidate candidate;
      candidate.row = source_row;
      candidate.row.config =
          setting.title + (spec.bits_for.empty() ? "" : " mixed") + (calibrated ? " calibrated" : "");
      candidate.row.format = setting.format;
      const auto start = Clock::now();
      candidate.checkpoint = convert_in_memory(
          *source, conversion, *pool,
          calibrated ? [&](const Conversion::Sink& take) {
            return calibrate(*source, conversion, calibration.text, options.calibration, pool, take);
          } : std::function<std::set<std::string>(const Conversion::Sink&)>());
      candidate.row.quantize_s = seconds_since(start);
      candidate.model = load_model(*candidate.checkpoint, ops, model_options);
      add_sizes(candidate.row, *candidate.checkpoint);
      candidate.row.bits = setting.bits > 0 ? setting.bits : candidate.row.bits_per_weight;
      say(fmt::format("{}: quantized in {:.1f} s, {:.1f} MB", candidate.row.config, candidate.row.quantize_s,
                      static_cast<double>(candidate.row.size_bytes) * 1e-6));
      candidates.push_back(std::move(candidate));
    }
  }

  if (!options.kv_bits.empty()) {
    add_cosines(candidates, windows.front().window(0));
    for (const Candidate& candidate : candidates)
      if (candidate.row.kv != "fp16")
        say(fmt::format("{}: cosine to fp16: keys {:.4f}, values {:.4f}; of compressed tokens alone {:.4f}, {:.4f}",
                        candidate.row.config, candidate.row.kv_key_cosine, candidate.row.kv_value_cosine,
                        candidate.row.kv_coded_key_cosine, candidate.row.kv_coded_value_cosine));
  }
  WindowScorer scorer(*pool, *ops);
  Progress progress("Evaluating", n_windows);
  std::vector<EvaluateRow> rows;
  for (size_t i = 0; i < windows.size(); ++i)
    score_text(candidates, windows[i], llama_cpp ? options.seq_len / 2 : 0, options.texts[i], scorer, progress, rows);
  return rows;
}

}  // namespace turboquant
