// Calibrated compression: that every matrix is reached, in every architecture, and that it helps.
#include "convert/calibration.h"

#include <gtest/gtest.h>

#include <mutex>

#include "convert/in_memory.h"
#include "convert/probe.h"
#include "core/sanitized.h"
#include "io/error_of.h"
#include "io/files.h"
#include "io/temp_folder.h"
#include "models/logits.h"

namespace turboquant {
namespace {

using Tensors = std::map<std::string, Tensor>;

TokenSequences random_text(const Checkpoint& source, size_t sequences, size_t tokens) {
  const int64_t vocab = model_info(source.config(), source.path().string()).vocab_size;
  TokenSequences text;
  for (size_t i = 0; i < sequences; ++i) text.push_back(random_tokens(tokens, vocab, static_cast<uint32_t>(100 + i)));
  return text;
}

Tensors calibrated_tensors(const Checkpoint& source, const Conversion& conversion, const TokenSequences& text,
                           std::shared_ptr<ThreadPool> pool, const Tensors& written = {}) {
  Tensors made;
  std::set<std::string> names;
  for (const auto& [name, tensor] : written) names.insert(name);
  const std::set<std::string> all = calibrate(
      source, conversion, text, {}, std::move(pool),
      [&](const std::string& name, const Tensor& tensor) {
        EXPECT_TRUE(!names.contains(name) && made.emplace(name, tensor).second) << name << " is made twice";
      },
      names, [&](const std::string& name) { return written.at(name); });
  std::set<std::string> expected;
  for (const Conversion::Matrix& matrix : conversion.matrices())
    if (matrix.role == Role::linear) expected.insert({matrix.module + ".weight", matrix.module + ".scales"});
  EXPECT_EQ(all, expected);
  EXPECT_EQ(made.size() + names.size(), expected.size());
  return made;
}

std::unique_ptr<Checkpoint> calibrated_checkpoint(const Checkpoint& source, const Conversion& conversion,
                                                  const TokenSequences& text) {
  return convert_in_memory(source, conversion, *two_threads(), [&](const Conversion::Sink& take) {
    return calibrate(source, conversion, text, {}, two_threads(), take);
  });
}

class EveryArchitecture : public testing::TestWithParam<const char*> {};

// Of random weights and random tokens every direction matters much the same: what must fall is the error on the text
// that was read, as least squares can use all of its accidents.
TEST_P(EveryArchitecture, FitsTheTextThatItRead) {
  const auto source = open_checkpoint(kTestData / "micro" / GetParam());
  const Conversion conversion(*source, spec_of("tcq16", 4));
  const TokenSequences text = random_text(*source, 6, 64);
  const auto plain = convert_in_memory(*source, conversion, *two_threads());
  const auto calibrated = calibrated_checkpoint(*source, conversion, text);
  const auto source_model = test_model(*source, true), plain_model = test_model(*plain, true),
             calibrated_model = test_model(*calibrated, true);
  double plain_error = 0, calibrated_error = 0;
  for (const std::vector<int32_t>& tokens : text) {
    const std::vector<float> expected = one_pass(*source_model, tokens);
    plain_error += relative_rms(one_pass(*plain_model, tokens), expected);
    calibrated_error += relative_rms(one_pass(*calibrated_model, tokens), expected);
  }
  EXPECT_LT(calibrated_error, 0.95 * plain_error);
}

TEST_P(EveryArchitecture, GivesTheSameAgainFromAnyPoint) {
  const auto source = open_checkpoint(kTestData / "micro" / GetParam());
  const Conversion conversion(*source, spec_of("tcq16", 3));
  const TokenSequences text = random_text(*source, 2, 64);
  const Tensors all = calibrated_tensors(*source, conversion, text, two_threads());
  Tensors half;  // all tensors of the first layer, and every other one of the next
  bool take = false;
  for (const auto& [name, tensor] : all) {
    take = !take;
    if (name.starts_with("model.layers.0.") || (take && name.starts_with("model.layers.1.")))
      half.emplace(name, tensor);
  }
  ASSERT_FALSE(half.empty());
  const Tensors rest = calibrated_tensors(*source, conversion, text, std::make_shared<ThreadPool>(1), half);
  for (const auto& [name, tensor] : rest) EXPECT_EQ(checksum(tensor), checksum(all.at(name))) << name;
}

INSTANTIATE_TEST_SUITE_P(Calibration, EveryArchitecture,
                         testing::ValuesIn(kSanitized
                                               ? std::vector<const char*>{"qwen3_5_moe_hub", "gpt_oss"}
                                               : std::vector<const char*>{"llama", "mistral", "qwen2", "qwen2_moe",
                                                                          "qwen3_5", "qwen3_5_hub", "qwen3_5_moe_hub",
                                                                          "gpt_oss", "gpt_oss_mxfp4"}),
                         [](const auto& info) { return std::string(info.param); });

std::unique_ptr<Checkpoint> llama() { return open_checkpoint(kTestData / "micro/llama"); }

TEST(OwnText, IsTheSeedsAndTheModels) {
  const auto source = llama();
  const TokenSequences text = own_text(*source, 600, 5, two_threads());
  const ModelInfo info = model_info(source->config(), "");
  const auto length = static_cast<size_t>(std::min<int64_t>(512, info.max_context));
  ASSERT_EQ(text.size(), (600 + length - 1) / length);
  for (const std::vector<int32_t>& sequence : text) {
    ASSERT_EQ(sequence.size(), length);
    EXPECT_EQ(sequence.front(), source->config().at("bos_token_id"));
    for (const int32_t token : sequence) EXPECT_TRUE(token >= 0 && token < info.vocab_size);
  }
  EXPECT_EQ(own_text(*source, 600, 5, std::make_shared<ThreadPool>(1)), text);
  EXPECT_NE(own_text(*source, 600, 6, two_threads()), text);
}

TEST(TextOfFiles, IsSpreadOverAllOfThem) {
  const auto source = llama();
  const TempFolder folder;
  std::string long_text;
  for (int i = 0; i < 4000; ++i) long_text += "The number " + std::to_string(i) + " is a number. ";
  write_text(folder / "b.txt", long_text);
  write_text(folder / "a.txt", "First of all. ");
  write_text(folder / "c.bin", std::string("\0\1\2", 3));
  const TokenSequences text = text_of_files(*source, folder.path().string(), 1024);
  ASSERT_GE(text.size(), 2U);
  EXPECT_NE(text.front(), text.back());
  EXPECT_LE(text.size() * text.front().size(), 1024U);
  const TokenSequences file = text_of_files(*source, (folder / "b.txt").string(), 1024);
  EXPECT_EQ(file.size(), text.size());
  EXPECT_NE(file.front(), text.front());
}

TEST(TextOfFiles, RefusesWhatIsTooLittle) {
  const auto source = llama();
  const TempFolder folder;
  write_text(folder / "short.txt", "Too short.");
  EXPECT_HAS(error_of([&] { text_of_files(*source, (folder / "short.txt").string(), 1024); }), "calibration needs");
  EXPECT_HAS(error_of([&] { text_of_files(*source, (folder / "no.txt").string(), 1024); }), "no such file");
}

// What the probe finds for a matrix is what the whole model loses when that matrix alone has 3 bits.
TEST(Sensitivities, AreThoseOfTheWholeModel) {
  for (const char* name : {"llama", "qwen2_moe"}) {
    const auto source = open_checkpoint(kTestData / "micro" / name);
    const TokenSequences text = random_text(*source, 2, 40);
    const std::map<std::string, double> losses =
        measure_sensitivities(*source, spec_of("tcq16", 3), text, two_threads());
    const auto logits_of = [&](const std::vector<BitsRule>& rules) {
      ConversionSpec spec = spec_of("tcq16", 3);
      spec.linear.bits = 8;
      spec.bits_for = rules;
      const auto checkpoint = converted(*source, spec);
      std::vector<std::vector<float>> logits;
      for (const std::vector<int32_t>& tokens : text)
        logits.push_back(one_pass(*load_model(*checkpoint, make_cpu_ops(two_threads())), tokens));
      return logits;
    };
    const auto base = logits_of({});
    size_t matrices = 0;
    for (const auto& [module, loss] : losses) {
      EXPECT_GT(loss, 0) << module;
      if (matrices++ % 5 != 0) continue;  // it takes a while
      std::string glob = module + "*";
      if (const size_t experts = glob.find(".experts."); experts != glob.npos) glob.insert(experts + 8, ".*");
      const auto changed = logits_of({{glob, 3, true}});
      double total = 0;
      size_t tokens = 0;
      for (size_t i = 0; i < base.size(); ++i) {
        const size_t vocab = base[i].size() / text[i].size();
        for (size_t t = 0; t < text[i].size(); ++t, ++tokens) {
          const std::vector<double> x(base[i].begin() + static_cast<std::ptrdiff_t>(t * vocab),
                                      base[i].begin() + static_cast<std::ptrdiff_t>((t + 1) * vocab));
          const std::vector<double> y(changed[i].begin() + static_cast<std::ptrdiff_t>(t * vocab),
                                      changed[i].begin() + static_cast<std::ptrdiff_t>((t + 1) * vocab));
          const auto log_sum = [](const std::vector<double>& values) {
            double sum = 0;
            for (const double value : values) sum += std::exp(value);
            return std::log(sum);
          };
          const double x_sum = log_sum(x), y_sum = log_sum(y);
          for (size_t v = 0; v < vocab; ++v) total += std::exp(x[v] - x_sum) * (x[v] - x_sum - y[v] + y_sum);
        }
      }
      EXPECT_NEAR(loss, total / static_cast<double>(tokens), 1e-6 + 1e-3 * loss) << name << " " << module;
    }
    EXPECT_GT(matrices, 20U);
  }
}

}  // namespace
}  // namespace turboquant
