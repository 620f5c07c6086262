#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/ceilings.h"
#include "cli/command.h"
#include "cli/step_cost.h"
#include "cli/synthetic.h"
#include "core/clock.h"
#include "core/interrupt.h"
#include "core/memory.h"
#include "core/random.h"
#include "generate/state.h"
#include "hub/hub.h"
#include "models/shapes.h"
#include "ops/profile.h"
#include "quant/quantize.h"
#include "quant/rotation.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

struct BenchOptions {
  std::string model, revision, synthetic, json;
  KvCacheOptions kv;
  int bits = 3, head_bits = 8, threads = 0, repeats = 5, prompt = 512, tokens = 64, depth = 0, batch = 1;
  bool kernels = false, ceilings = false, profile = false, preload = false, lock = false, repack = true;
};

struct BenchRow {
  std::string name;
  double tok_s = 0, gb_s = 0, gop_s = 0;
  double ceiling = 0;  // in the unit of gb_s or gop_s, whichever binds
  double share = 0;
  double of_step = 0;  // of a part of a decoding step, its share of the time
};

/// A run: time and classes of operations of all its tokens.
struct BenchRun {
  double seconds = 0;
  Profile profile;
};

BenchRun median(std::vector<BenchRun> runs) {
  const auto middle = runs.begin() + static_cast<std::ptrdiff_t>(runs.size() / 2);
  std::nth_element(runs.begin(), middle, runs.end(),
                   [](const BenchRun& a, const BenchRun& b) { return a.seconds < b.seconds; });
  return *middle;
}

class Bench {
 public:
  explicit Bench(const BenchOptions& options)
      : options_(options), pool_(make_thread_pool(options.threads)), ops_(make_cpu_ops(pool_)) {}

  void run() {
    std::unique_ptr<Checkpoint> synthetic, real;  // first: a wrong name should not wait for measurements
    if (!options_.synthetic.empty())
      synthetic = make_synthetic(options_.synthetic, options_.bits, options_.head_bits, *pool_);
    if (!options_.model.empty()) real = open_model(options_.model, options_.revision, message);
    repack_ = options_.repack && !options_.lock;
    if (real && (options_.preload || options_.lock))
      load_into_memory(*real, options_.lock, !(repack_ && ops_->repacks()));
    fmt::print("{} threads, {}\n", pool_->size(), name(cpu_level()));
    fmt::print("{:<38} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}\n", "Name", "tok/s", "GB/s", "GOP/s", "ceiling", "share",
               "of step");
    memory_ = memory_read_rate(*pool_, turboquant::kernels().stream_sum) * 1e-9;
    int8_ = peak_rate(*pool_, turboquant::kernels().peak_int8) * 1e-9;
    add({"memory read", 0, memory_, 0, memory_, 1});
    add({"int8 multiply-add", 0, 0, int8_, int8_, 1});
    if (options_.ceilings) {
      const double f32 = peak_rate(*pool_, turboquant::kernels().peak_f32) * 1e-9;
      add({"fp32 multiply-add", 0, 0, f32, f32, 1});
    }
    const double fork_join = fork_join_seconds(*pool_);
    fmt::print("{:<38} {:.2f} us\n", "fork and join", fork_join * 1e6);
    if (options_.kernels) {
      for (const int bits : {2, 3, 4, 8}) matvec(bits);
      for (const int bits : {2, 3, 4}) encoder(bits);
    }
    if (synthetic) model(*synthetic, options_.synthetic);
    if (real) model(*real, options_.model);
    if (!options_.json.empty()) {
      std::vector<std::string> lines;
      for (const BenchRow& row : rows_)
        lines.push_back(nlohmann::ordered_json{
            {"name", row.name},
            {"tok_s", row.tok_s},
            {"gb_s", row.gb_s},
            {"gop_s", row.gop_s},
            {"ceiling", row.ceiling},
            {"share", row.share},
            {"of_step",
             row.of_step}}.dump());
      write_json_rows(options_.json, lines);
    }
  }

 private:
  void add(const BenchRow& row) {
    const auto cell = [](double value, int digits) {
      return value > 0 ? fmt::format("{:.{}f}", value, digits) : std::string("-");
    };
    fmt::print("{:<38} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}\n", row.name, cell(row.tok_s, 1), cell(row.gb_s, 2),
               cell(row.gop_s, 0), cell(row.ceiling, 1), cell(row.share, 3), cell(row.of_step, 3));
    rows_.push_back(row);
    check_interrupt();
  }

  // Matrices of 4096 x 14336, enough of them that none is in a cache when its turn comes again.
  void matvec(int bits) {
    constexpr int64_t kRows = 4096, kCols = 14336, kBytes = int64_t{512} << 20;
    Weight weight;
    weight.kind = Weight::Kind::tiled;
    weight.bits = bits;
    weight.rows = kRows;
    weight.cols = kCols;
    const int64_t matrix = tile_count(kRows) * kCols / kGroup * block_bytes(bits), count = kBytes / matrix;
    Tensor data = Tensor::zeros(DType::u8, {count * matrix});
    pool_->parallel_for(data.elements(), 1 << 20, [&](int64_t begin, int64_t end) {
      uint32_t state = static_cast<uint32_t>(begin) + 1;
      for (int64_t i = begin; i < end; ++i)
        data.data<uint8_t>()[i] = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
    });
    weight.scales = from_float(std::vector<float>(kRows, 1e-4F).data(), {kRows}, DType::f16);
    const Tensor x = from_float(random_normal(1, kCols).data(), {1, kCols}, DType::f32);
    std::vector<double> seconds;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      ops_->begin_scope();
      const Activations input = ops_->prepare(x, Rotation(), false);
      const auto start = Clock::now();
      for (int64_t i = 0; i < count; ++i) {
        weight.data = data.rows(i * matrix, (i + 1) * matrix);
        const Projection projection{&weight, nullptr};
        ops_->matmul(input, {&projection, 1});
      }
      seconds.push_back(seconds_since(start));
    }
    const double rate = static_cast<double>(data.bytes()) / median(seconds) * 1e-9;
    add({fmt::format("matrix-vector {} bits 4096x14336", bits), 0, rate, 0, memory_, rate / memory_});
  }

  // Weights a second that one core encodes, printed in millions.
  void encoder(int bits) {
    constexpr int64_t kRows = 256, kCols = 4096;
    const Tensor weights = from_float(random_normal(2, kRows * kCols).data(), {kRows, kCols}, DType::f32);
    const Rotation rotation = make_rotation(kCols, 3);
    QuantSpec spec;
    spec.bits = bits;
    std::vector<double> seconds;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      const auto start = Clock::now();
      quantize(weights, rotation, spec, nullptr);
      seconds.push_back(seconds_since(start));
    }
    fmt::print("{:<38} {:.1f} M weights/s on one core\n", fmt::format("encoder {} bits", bits),
               kRows * kCols / median(seconds) * 1e-6);
  }

  void model(const Checkpoint& checkpoint, const std::string& given) {
    const auto loading = Clock::now();
    const auto profile = std::make_shared<Profile>();
    const CacheOptions cache_as = cache_options(options_.kv);
    const std::unique_ptr<Model> model =
        load_model(checkpoint, options_.profile ? std::shared_ptr<Ops>(make_profiling_ops(ops_, profile)) : ops_,
                   {.cache = cache_as, .repack = repack_});
    if (options_.depth + options_.repeats * options_.tokens + 1 > model->info().max_context)
      throw UsageError(fmt::format("--depth {}: with {} runs of {} tokens more than the model's context of {}",
                                   options_.depth, options_.repeats, options_.tokens, model->info().max_context));
    const double load_s = seconds_since(loading);
    const std::string label = std::filesystem::path(given).filename().string();
    const StepCost cost = step_cost(checkpoint, model->info().tied_head);
    fmt::print("{:<38} {:.1f} ms\n", label + " load", load_s * 1e3);
    const int64_t prompt_length = std::min<int64_t>(options_.prompt, model->info().max_context - 1);
    std::vector<int32_t> prompt;
    for (const uint32_t word : random_bits(4, prompt_length))
      prompt.push_back(static_cast<int32_t>(word % static_cast<uint32_t>(model->info().vocab_size)));

    std::vector<BenchRun> prefills;
    const bool peak_known = reset_peak_memory();
    const uint64_t before = peak_memory();
    double prompt_cache_bytes = 0;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      Cache cache = model->make_cache();
      profile->clear();
      const auto start = Clock::now();
      prefill(*model, cache, prompt);
      prefills.push_back({seconds_since(start), *profile});
      prompt_cache_bytes = static_cast<double>(cache.bytes());
      check_interrupt();
    }
    const auto peak = static_cast<double>(peak_memory());
    Cache cache = model->make_cache();
    model->fill_randomly(cache, options_.depth);
    prefill(*model, cache, std::span(prompt).first(1));
    const auto cache_bytes = static_cast<double>(cache.bytes());
    std::vector<BenchRun> runs;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      profile->clear();
      const auto start = Clock::now();
      // Another token each time, so that another choice of experts is read.
      for (int i = 0; i < options_.tokens; ++i)
        prefill(*model, cache, std::span(prompt).subspan(static_cast<size_t>(i) % prompt.size(), 1));
      runs.push_back({seconds_since(start), *profile});
      check_interrupt();
    }
    const BenchRun middle = median(runs), middle_prefill = median(prefills);
    const double tok = options_.tokens / middle.seconds,
                 rate = (cost.bytes() + (options_.depth > 0 ? cache_bytes : 0)) * tok * 1e-9;
    const std::string at = options_.depth > 0 ? fmt::format(" at {}, KV {}", options_.depth, options_.kv.bits) : "";
    add({label + " decode" + at, tok, rate, 0, memory_, rate / memory_});
    if (options_.depth > 0) fmt::print("{:<38} {:.1f} MB\n", label + " KV cache", cache_bytes * 1e-6);
    if (options_.profile) {
      const auto kv_bytes = static_cast<double>(
          turboquant::cache_bytes(model->ops(), model->layer_memory(), cache_as, options_.depth + 1).kv);
      parts_of_step(label + " decode", middle, cost.by_class(kv_bytes));
    }
    if (options_.batch > 1) decode_batch(*model, *profile, label, prompt, cost, tok);
    const double prefill_tok = static_cast<double>(prompt_length) / middle_prefill.seconds,
                 gops = 2e-9 * cost.multiply_adds * prefill_tok;
    const std::string prefill_label = fmt::format("{} prefill {}", label, prompt_length);
    add({prefill_label, prefill_tok, 0, gops, int8_, gops / int8_});
    if (options_.profile) parts_of_step(prefill_label, middle_prefill, {});
    if (peak_known)
      fmt::print("{:<38} {:.1f} MB at most, {:.1f} MB more than before it; KV cache {:.1f} MB\n",
                 prefill_label + " memory", peak * 1e-6, (peak - static_cast<double>(before)) * 1e-6,
                 prompt_cache_bytes * 1e-6);
  }

  // Tokens a second of several sequences together, step by step. `alone`: of one.
  void decode_batch(Model& model, Profile& profile, const std::string& label, const std::vector<int32_t>& prompt,
                    const StepCost& cost, double alone) {
    const auto count = static_cast<size_t>(options_.batch);
    std::vector<BenchRun> runs;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      std::vector<Cache> caches;
      for (size_t i = 0; i < count; ++i) caches.push_back(model.make_cache());
      profile.clear();
      const auto start = Clock::now();
      for (int step = 0; step < options_.tokens; ++step) {
        std::vector<SequenceTokens> batch;
        for (size_t i = 0; i < count; ++i)
          batch.push_back(
              {&caches[i], std::span(prompt).subspan((count * static_cast<size_t>(step) + i) % prompt.size(), 1)});
        model.forward(batch);
      }
      runs.push_back({seconds_since(start), profile});
      check_interrupt();
    }
    const BenchRun middle = median(runs);
    const double tok = options_.batch * options_.tokens / middle.seconds, gops = 2e-9 * cost.multiply_adds * tok;
    const std::string name = fmt::format("{} decode, {} sequences", label, options_.batch);
    add({name, tok, 0, gops, int8_, gops / int8_});
    if (options_.profile) parts_of_step(name, middle, {});
    fmt::print("{:<38} {:.2f} times one sequence\n", "", tok / alone);
  }

  // What a decoding step or a prefill consists of. `bytes`: what an operation of a class reads a token.
  void parts_of_step(const std::string& label, const BenchRun& run, const std::map<OpClass, double>& bytes) {
    for (size_t i = 0; i < kOpClasses; ++i) {
      const auto op = static_cast<OpClass>(i);
      const double seconds = run.profile[op].seconds;
      if (seconds == 0) continue;
      BenchRow row{fmt::format("{} {}", label, name(op))};
      row.of_step = seconds / run.seconds;
      if (const auto read = bytes.find(op); read != bytes.end()) {
        row.gb_s = read->second * options_.tokens / seconds * 1e-9;
        row.ceiling = memory_;
        row.share = row.gb_s / memory_;
      }
      add(row);
    }
  }

  BenchOptions options_;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<Ops> ops_;
  bool repack_ = false;  // as far as memory allows
  double memory_ = 0, int8_ = 0;
  std::vector<BenchRow> rows_;
};

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("bench", "Measure speed, beside the ceilings of this machine read in the same run");
  auto options = std::make_shared<BenchOptions>();
  add_model_option(*command, options->model, options->revision)->required(false);
  command->add_option("--synthetic", options->synthetic, "Random weights of a real shape: " + known_config_names());
  command->add_option("--bits,-b", options->bits, "Bits of the synthetic linear layers: 2, 3 or 4")
      ->capture_default_str();
  command->add_option("--head-bits", options->head_bits, "Bits of the synthetic embedding and head: 2, 3, 4, 8 or 16")
      ->capture_default_str();
  command->add_flag("--ceilings", options->ceilings,
                    "What the machine can do, fp32 multiply-adds, too; alone: nothing else");
  command->add_flag("--profile", options->profile, "Also what decoding and prefill consist of, by kind of operation");
  command->add_option("--batch", options->batch, "Also so many sequences decoded together")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_flag("--kernels", options->kernels, "Also the kernels alone (the default if no model is named)");
  command->add_option("--prompt-tokens", options->prompt, "Prompt of the prefill")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_option("--tokens", options->tokens, "Tokens a decode run")->capture_default_str()->check(at_least(1));
  command->add_option("--depth", options->depth, "Tokens in the cache before a decode run, of random content")
      ->capture_default_str()
      ->check(at_least(0));
  add_kv_options(*command, options->kv);
  command->add_option("--repeats", options->repeats, "Runs, of which the median counts")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_option("--json", options->json, "Write the rows to this file: a JSON array, one object a row");
  add_threads_option(*command, options->threads);
  add_memory_options(*command, options->preload, options->lock);
  add_repack_option(*command, options->repack);
  command->footer("Example:\n  turboquant bench --synthetic llama-3.2-1b --bits 3");
  command->callback([=] {
    if (options->depth > 0) options->profile = true;
    if (options->model.empty() && options->synthetic.empty() && !options->ceilings) options->kernels = true;
    Bench(*options).run();
  });
}

}  // namespace turboquant
