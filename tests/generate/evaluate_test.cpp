// evaluate(): perplexity, KL divergence and sizes against the same figures computed here from logits.
#include "turboquant/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "convert/in_memory.h"
#include "generate/evaluation_text.h"
#include "generate/micro.h"
#include "generate/state.h"
#include "io/error_of.h"
#include "turboquant/convert.h"

namespace turboquant {
namespace {

constexpr int kLength = 48;

/// A text of some 400 tokens.
std::string some_text() {
  std::string text;
  for (int i = 1; i <= 12; ++i)
    text += "In the year " + std::to_string(1790 + 17 * i) + " the " + std::to_string(i) +
            " ships of the fleet sailed north again, " + "and nobody wrote down why.\n";
  return text;
}

class Evaluate : public testing::Test {
 protected:
  Evaluate() {
    write_text(folder_ / "ships.txt", some_text());
    options_.model = kMicro.string();
    options_.texts = {(folder_ / "ships.txt").string()};
    options_.seq_len = kLength;
    options_.num_samples = 6;
    options_.threads = 2;
    options_.bits = {};
  }

  TempFolder folder_;
  EvaluateOptions options_;
};

/// log softmax of each row of logits.
std::vector<std::vector<double>> log_probabilities(const std::vector<float>& logits, size_t vocab) {
  std::vector<std::vector<double>> rows;
  for (size_t at = 0; at < logits.size(); at += vocab) {
    std::vector<double> row(logits.begin() + static_cast<std::ptrdiff_t>(at),
                            logits.begin() + static_cast<std::ptrdiff_t>(at + vocab));
    const double largest = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (const double x : row) sum += std::exp(x - largest);
    for (double& x : row) x -= largest + std::log(sum);
    rows.push_back(std::move(row));
  }
  return rows;
}

struct Figures {
  double perplexity = 0, perplexity_se = 0, log_change_se = 0, kl = 0, kl_se = 0, kl_p99 = 0, top1 = 0;
  int64_t tokens = 0;
};

/// The definitions, a token at a time: predictions of positions first + 1 and on, window by window.
Figures figures_of(Model& baseline, Model& model, const Windows& windows, size_t first) {
  std::vector<double> nll, kl, changes;
  double same = 0;
  const auto vocab = static_cast<size_t>(model.info().vocab_size);
  for (int64_t w = 0; w < windows.count(); ++w) {
    const auto window = windows.window(w);
    const auto p = log_probabilities(one_pass(baseline, window), vocab),
               q = log_probabilities(one_pass(model, window), vocab);
    for (size_t t = first; t + 1 < window.size(); ++t) {
      const auto next = static_cast<size_t>(window[t + 1]);
      nll.push_back(-q[t][next]);
      changes.push_back(p[t][next] - q[t][next]);
      double divergence = 0;
      for (size_t i = 0; i < vocab; ++i) divergence += std::exp(p[t][i]) * (p[t][i] - q[t][i]);
      kl.push_back(divergence);
      const auto top = [](const std::vector<double>& row) {
        return std::max_element(row.begin(), row.end()) - row.begin();
      };
      same += top(p[t]) == top(q[t]) ? 1 : 0;
    }
  }
  Figures figures;
  const auto n = static_cast<double>(nll.size());
  double mean = 0;
  for (const double x : nll) mean += x / n;
  for (const double x : kl) figures.kl += x / n;
  const auto error = [n](const std::vector<double>& values) {
    double sum = 0, squares = 0;
    for (const double x : values) sum += x, squares += x * x;
    return std::sqrt(std::max(squares - sum * sum / n, 0.0) / (n - 1) / n);
  };
  figures.kl_se = error(kl);
  figures.log_change_se = error(changes);
  std::sort(kl.begin(), kl.end());
  figures.perplexity = std::exp(mean);
  figures.perplexity_se = figures.perplexity * error(nll);
  figures.kl_p99 = kl[static_cast<size_t>(0.99 * (n - 1))];
  figures.top1 = same / n;
  figures.tokens = static_cast<int64_t>(nll.size());
  return figures;
}

void expect_figures(const EvaluateRow& row, const Figures& expected) {
  EXPECT_NEAR(row.perplexity, expected.perplexity, 1e-5 * expected.perplexity);
  EXPECT_NEAR(row.perplexity_se, expected.perplexity_se, 1e-4 * expected.perplexity_se);
  EXPECT_NEAR(row.kl, expected.kl, 1e-4 * expected.kl + 1e-6);
  EXPECT_NEAR(row.log_change_se, expected.log_change_se, 1e-4 * expected.log_change_se + 1e-6);
  EXPECT_NEAR(row.kl_se, expected.kl_se, 1e-4 * expected.kl_se + 1e-6);
  EXPECT_NEAR(row.kl_p99, expected.kl_p99, 1e-4 * expected.kl_p99 + 1e-6);
  EXPECT_NEAR(row.top1, expected.top1, 1e-9);
  EXPECT_EQ(row.tokens_scored, expected.tokens);
}

TEST_F(Evaluate, FiguresOfEveryRow) {
  options_.bits = {4, 2};
  std::vector<std::string> messages;
  options_.on_message = [&](const std::string& line) { messages.push_back(line); };
  const std::vector<EvaluateRow> rows = evaluate(options_);
  EXPECT_EQ(messages.size(), 8u);

  const auto source = open_checkpoint(kMicro);
  const Tokenizer tokenizer = load_tokenizer(*source);
  const Windows windows = cut_windows(tokenizer, options_.texts[0], options_, false);
  ASSERT_EQ(windows.count(), 6);
  const auto baseline = test_model(*source, false, DType::f16);
  expect_figures(rows[0], figures_of(*baseline, *baseline, windows, 0));

  struct Expected {
    const char* config;
    const char* format;
    int bits;
  };
  const Expected order[] = {{"TCQ16 4-bit", "tcq16", 4},
                            {"TCQ16 2-bit", "tcq16", 2},
                            {"TurboQuant 4-bit", "original", 4},
                            {"TurboQuant 2-bit", "original", 2},
                            {"TurboQuant 4+QJL", "original+qjl", 4},
                            {"TurboQuant 2+QJL", "original+qjl", 2},
                            {"Affine 4-bit", "affine", 4},
                            {"Affine 2-bit", "affine", 2}};
  ASSERT_EQ(rows.size(), 9u);
  for (size_t i = 0; i < std::size(order); ++i) {
    const EvaluateRow& row = rows[i + 1];
    SCOPED_TRACE(order[i].config);
    EXPECT_EQ(row.config, order[i].config);
    EXPECT_EQ(row.format, order[i].format);
    EXPECT_EQ(row.bits, order[i].bits);
    EXPECT_EQ(row.kv, "fp16");
    EXPECT_EQ(row.text, "ships.txt");
    EXPECT_EQ(row.params, 1230528u);
    const std::string format = order[i].format;
    ConversionSpec spec = spec_of(format.substr(0, format.find('+')), order[i].bits);
    spec.linear.qjl = format.ends_with("+qjl");
    const Conversion conversion(*source, spec);
    const auto checkpoint = convert_in_memory(*source, conversion, *two_threads());
    EXPECT_EQ(row.size_bytes, checkpoint->size_on_disk());
    EXPECT_DOUBLE_EQ(row.bits_per_weight, 8.0 * static_cast<double>(row.size_bytes) / 1230528.0);
    EXPECT_DOUBLE_EQ(row.bits_per_weight_linear, conversion.bits_per_weight_linear());
    EXPECT_GT(row.quantize_s, 0);
    EXPECT_GT(row.evaluate_s, 0);
    expect_figures(row, figures_of(*baseline, *test_model(*checkpoint, false, DType::f16), windows, 0));
    EXPECT_GT(row.kl, 0.001);
    EXPECT_GE(row.kl_p99, row.kl);
    EXPECT_LT(row.top1, 1);
  }
}

TEST_F(Evaluate, TheBaselineIsAtNoDistanceFromItself) {
  const std::vector<EvaluateRow> rows = evaluate(options_);
  ASSERT_EQ(rows.size(), 1u);
  const EvaluateRow& row = rows[0];
  EXPECT_EQ(row.config, "FP16");
  EXPECT_EQ(row.format, "none");
  EXPECT_EQ(row.bits, 16);
  EXPECT_EQ(row.kl, 0);
  EXPECT_EQ(row.kl_p99, 0);
  EXPECT_EQ(row.top1, 1);
  EXPECT_EQ(row.tokens_scored, 6 * (kLength - 1));
  EXPECT_EQ(row.params, 1230528u);
  EXPECT_EQ(row.size_bytes, 2u * 1230528u);
  EXPECT_EQ(row.bits_per_weight, 16);
  EXPECT_EQ(row.bits_per_weight_linear, 16);
  EXPECT_EQ(row.quantize_s, 0);
}

// Each text's rows are those of a run with that text alone, up to the times.
TEST_F(Evaluate, SeveralTexts) {
  options_.bits = {3};
  options_.formats = {"tcq16"};
  options_.num_samples = 3;
  write_text(folder_ / "short.txt", some_text().substr(200, 900));
  const std::string ships = options_.texts[0], other = (folder_ / "short.txt").string();
  options_.texts = {ships, other};
  const std::vector<EvaluateRow> rows = evaluate(options_);
  ASSERT_EQ(rows.size(), 4u);
  for (size_t i = 0; i < 2; ++i) {
    options_.texts = {i == 0 ? ships : other};
    const std::vector<EvaluateRow> alone = evaluate(options_);
    for (size_t k = 0; k < 2; ++k) {
      const EvaluateRow& row = rows[2 * i + k];
      EXPECT_EQ(row.text, i == 0 ? "ships.txt" : "short.txt");
      EXPECT_EQ(row.config, alone[k].config);
      EXPECT_EQ(row.perplexity, alone[k].perplexity);
      EXPECT_EQ(row.log_change_se, alone[k].log_change_se);
      EXPECT_EQ(row.kl, alone[k].kl);
      EXPECT_EQ(row.kl_p99, alone[k].kl_p99);
      EXPECT_EQ(row.top1, alone[k].top1);
      EXPECT_EQ(row.tokens_scored, alone[k].tokens_scored);
    }
  }
  EXPECT_NE(rows[1].kl, rows[3].kl);
}

TEST_F(Evaluate, ErrorsOfPairedDifferences) {
  options_.bits = {4};
  options_.formats = {"tcq16"};
  const std::vector<EvaluateRow> rows = evaluate(options_);
  EXPECT_EQ(rows[0].log_change, 0);
  EXPECT_EQ(rows[0].log_change_se, 0);
  EXPECT_EQ(rows[0].kl_se, 0);
  EXPECT_EQ(rows[0].top1_se, 0);
  EXPECT_NEAR(rows[1].log_change, std::log(rows[1].perplexity / rows[0].perplexity), 1e-9);
  EXPECT_GT(rows[1].log_change_se, 0);
  EXPECT_LT(rows[1].log_change_se, rows[1].perplexity_se / rows[1].perplexity) << "paired";
  EXPECT_GT(rows[1].kl_se, 0);
  EXPECT_LT(rows[1].kl_se, rows[1].kl);
  EXPECT_GT(rows[1].top1_se, 0);
}

TEST_F(Evaluate, ChosenFormats) {
  options_.bits = {3};
  options_.formats = {"affine", "tcq16"};
  options_.num_samples = 1;
  const std::vector<EvaluateRow> rows = evaluate(options_);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[1].config, "Affine 3-bit");
  EXPECT_EQ(rows[2].config, "TCQ16 3-bit");
}

TEST_F(Evaluate, RowsWithAndWithoutQjl) {
  options_.bits = {2, 3};
  options_.formats = {"mlx"};
  options_.num_samples = 1;
  const auto titles = [&] {
    std::string titles;
    for (const EvaluateRow& row : evaluate(options_)) titles += row.config + " " + row.format + "; ";
    return titles;
  };
  EXPECT_EQ(titles(),
            "FP16 none; TurboQuant 2-bit original; TurboQuant 3-bit original; TurboQuant 2+QJL original+qjl; "
            "TurboQuant 3+QJL original+qjl; ");
  options_.qjl = false;
  EXPECT_EQ(titles(), "FP16 none; TurboQuant 2-bit original; TurboQuant 3-bit original; ");
}

TEST_F(Evaluate, Exact) {
  options_.bits = {3};
  options_.formats = {"tcq16"};
  options_.exact = true;
  const EvaluateRow row = evaluate(options_)[1];
  const auto source = open_checkpoint(kMicro);
  const Windows windows = cut_windows(load_tokenizer(*source), options_.texts[0], options_, false);
  const auto checkpoint = converted(*source, spec_of("tcq16", 3));
  expect_figures(
      row, figures_of(*test_model(*source, true, DType::f16), *test_model(*checkpoint, true, DType::f16), windows, 0));
  options_.exact = false;
  EXPECT_NE(evaluate(options_)[1].kl, row.kl);
}

TEST_F(Evaluate, OptionsOfTheConversion) {
  options_.bits = {3};
  options_.formats = {"original"};
  options_.num_samples = 2;
  const EvaluateRow row = evaluate(options_)[1];
  options_.group_size = 32;
  EXPECT_GT(evaluate(options_)[1].size_bytes, row.size_bytes);
  options_.group_size = 64;
  options_.rotation_seed = 1;
  EXPECT_NE(evaluate(options_)[1].kl, row.kl);
  options_.rotation = "none";
  EXPECT_LT(evaluate(options_)[1].size_bytes, row.size_bytes);  // no signs
  options_.formats = {"tcq16"};
  const uint64_t head_8 = evaluate(options_)[1].size_bytes;
  options_.head_bits = 16;
  EXPECT_EQ(evaluate(options_)[1].size_bytes, head_8 + 512u * 192u - 2u * 512u);
}

TEST_F(Evaluate, MixedBitsAreOfTcq16Rows) {
  options_.bits = {3};
  options_.formats = {"tcq16", "original"};
  options_.num_samples = 2;
  const std::vector<EvaluateRow> plain = evaluate(options_);
  options_.bits_for = {"*.v_proj=8", "*.down_proj=4"};
  const std::vector<EvaluateRow> mixed = evaluate(options_);
  EXPECT_EQ(mixed[1].config, "TCQ16 3-bit mixed");
  EXPECT_EQ(mixed[2].config, "TurboQuant 3-bit");
  EXPECT_LT(mixed[1].kl, plain[1].kl);
  EXPECT_GT(mixed[1].bits_per_weight_linear, plain[1].bits_per_weight_linear + 0.2);
  EXPECT_EQ(mixed[2].kl, plain[2].kl);
  options_.bits_for = {};
  options_.preset = "dense";
  EXPECT_LT(evaluate(options_)[1].kl, plain[1].kl);
  options_.formats = {"original"};
  EXPECT_THROW(evaluate(options_), UsageError);
}

TEST_F(Evaluate, AveragesAndSizesAreRowsOfTcq16) {
  options_.bits = {3, 3.5};
  options_.target_bytes = {700'000};
  options_.formats = {"tcq16", "affine"};
  options_.num_samples = 2;
  const std::vector<EvaluateRow> rows = evaluate(options_);
  ASSERT_EQ(rows.size(), 5u);
  const char* names[] = {"FP16", "TCQ16 3-bit", "TCQ16 3.5-bit", "TCQ16 0.7 MB", "Affine 3-bit"};
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i].config, names[i]);
  EXPECT_EQ(rows[2].bits, 3.5);
  EXPECT_GT(rows[2].bits_per_weight_linear, rows[1].bits_per_weight_linear);
  EXPECT_LE(rows[2].bits_per_weight_linear, rows[1].bits_per_weight_linear + 0.5);
  EXPECT_LT(rows[2].kl, rows[1].kl);
  EXPECT_LE(rows[3].size_bytes, 700'000u);
  EXPECT_EQ(rows[3].bits, rows[3].bits_per_weight);
}

TEST_F(Evaluate, ProtocolOfLlamaCpp) {
  options_.protocol = "llama.cpp";
  options_.bits = {4};
  options_.formats = {"tcq16"};
  for (const int length : {kLength, 31}) {
    options_.seq_len = length;
    const std::vector<EvaluateRow> rows = evaluate(options_);
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_EQ(rows[0].tokens_scored, 6 * (length - length / 2 - 1));
    const auto source = open_checkpoint(kMicro);
    const Windows windows = cut_windows(load_tokenizer(*source), options_.texts[0], options_, true);
    const auto checkpoint = converted(*source, spec_of("tcq16", 4));
    const auto baseline = test_model(*source, false, DType::f16), model = test_model(*checkpoint, false, DType::f16);
    expect_figures(rows[0], figures_of(*baseline, *baseline, windows, static_cast<size_t>(length / 2)));
    expect_figures(rows[1], figures_of(*baseline, *model, windows, static_cast<size_t>(length / 2)));
  }
}

TEST_F(Evaluate, AConvertedFolderIsItsOwnRow) {
  options_.bits = {3};
  options_.formats = {"tcq16"};
  const EvaluateRow in_memory = evaluate(options_)[1];
  ConvertOptions convert_options;
  convert_options.model = kMicro.string();
  convert_options.output = (folder_ / "small").string();
  convert_options.threads = 2;
  convert(convert_options);
  options_.model = (folder_ / "small").string();
  const std::vector<EvaluateRow> rows = evaluate(options_);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].config, "small");
  EXPECT_EQ(rows[0].format, "tcq16");
  EXPECT_EQ(rows[0].bits, 3);
  EXPECT_EQ(rows[0].perplexity, in_memory.perplexity);
  EXPECT_EQ(rows[0].size_bytes, in_memory.size_bytes);
}

TEST_F(Evaluate, BadOptions) {
  struct Case {
    void (*change)(EvaluateOptions&);
    const char* expected;
  };
  const Case cases[] = {
      {[](EvaluateOptions& o) { o.seq_len = 1; }, "--seq-len 1: must be 2 or more"},
      {[](EvaluateOptions& o) { o.seq_len = -5; }, "--seq-len -5"},
      {[](EvaluateOptions& o) { o.num_samples = 0; }, "--num-samples 0: must be 1 or more"},
      {[](EvaluateOptions& o) { o.texts = {}; }, "--text: name a text file"},
      {[](EvaluateOptions& o) { o.protocol = "other"; }, "--protocol other: use original or llama.cpp"},
      {[](EvaluateOptions& o) {
         o.bits = {3, 1.5};
       },
       "--bits 1.5: use 2, 3, 4 or 8, or any average from 2 to 8"},
      {[](EvaluateOptions& o) {
         o.bits = {3, 5}, o.formats = {"original"};
       },
       "--bits 5: needs tcq16 among --formats"},
      {[](EvaluateOptions& o) { o.target_bytes = {1 << 20}, o.formats = {"affine"}; }, "--calibrate need tcq16"},
      {[](EvaluateOptions& o) { o.bits = {3.5}, o.preset = "dense"; }, "--preset dense: a mix on top of one number"},
      {[](EvaluateOptions& o) { o.head_bits = 5; }, "--head-bits 5: use 4, 8, or 16"},
      {[](EvaluateOptions& o) { o.bits = {3}, o.group_size = 48; }, "--group-size 48"},
      {[](EvaluateOptions& o) { o.bits = {3}, o.formats = {"gptq"}; }, "--format gptq: unknown"},
      {[](EvaluateOptions& o) { o.bits = {3}, o.rotation = "spin"; }, "--rotation spin: unknown"},
      {[](EvaluateOptions& o) { o.rows = "some"; }, "--rows some: use auto, yes or no"},
  };
  for (const Case& c : cases) {
    EvaluateOptions options = options_;
    c.change(options);
    try {
      evaluate(options);
      ADD_FAILURE() << "no error, expected: " << c.expected;
    } catch (const UsageError& error) {
      EXPECT_HAS(std::string(error.what()), c.expected);
    }
  }
}

TEST_F(Evaluate, WhatCannotBeEvaluated) {
  const auto error_with = [&](auto change) {
    EvaluateOptions options = options_;
    change(options);
    return error_of([&] { evaluate(options); });
  };
  EXPECT_HAS(error_with([](auto& o) { o.seq_len = 4000; }), "ships.txt: has ");
  EXPECT_HAS(error_with([](auto& o) { o.texts = {"nothing.txt"}; }), "nothing.txt");
  EXPECT_HAS(error_with([](auto& o) { o.model = "nothing"; }), "nothing: no such file or folder");
  MicroCopy copy;
  const auto with_copy = [&](auto& o) { o.model = copy.path().string(); };
  copy.change("config.json", [](auto& config) { config["max_position_embeddings"] = kLength - 1; });
  EXPECT_HAS(error_with(with_copy), "--seq-len 48: the model's context is 47");
  copy.change("config.json", [](auto& config) { config["max_position_embeddings"] = 4096; });
  copy.change("tokenizer.json", [](auto& json) {
    nlohmann::json token = json["added_tokens"][0];
    token["id"] = 600;
    token["content"] = "fleet";
    json["added_tokens"].push_back(token);
  });
  EXPECT_HAS(error_with(with_copy), "the tokenizer gives token ");
  copy.remove("tokenizer.json");
  EXPECT_HAS(error_with(with_copy), "no tokenizer.json");
}

}  // namespace
}  // namespace turboquant
