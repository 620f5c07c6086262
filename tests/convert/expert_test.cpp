// Conversion of models with experts.
#include <gtest/gtest.h>

#include "convert/conversion.h"
#include "models/expert_forward.h"
#include "turboquant/convert.h"

namespace turboquant {
namespace {

using namespace experts_test;

TEST(Experts, CompressedTokensAreIndependentAndClose) {
  ThreadPool pool(2);
  for (const char* name : {"qwen2_moe", "gpt_oss_mxfp4"}) {
    const auto source = open_checkpoint(kData / "micro" / name);
    double last = 1e9;
    for (const int bits : {2, 3, 4, 8}) {
      SCOPED_TRACE(name + std::string(" in bits: ") + std::to_string(bits));
      ConversionSpec spec;
      spec.linear.bits = bits;
      const auto compressed = convert_in_memory(*source, Conversion(*source, spec), pool);
      if (bits == 3 || bits == 4) expect_independent_tokens(*compressed, false);
      const std::vector<int32_t> tokens = some_tokens(60, 512, 5);
      const double e = error(whole(*load(*compressed, false), tokens), whole(*load(*source, true), tokens));
      EXPECT_LT(e, last);
      EXPECT_GT(e, 1e-5);
      last = e;
    }
    EXPECT_LT(last, 0.3);  // 8 bits: tokens whose routing was nearly even go elsewhere; a wrong expert gives 1
  }
}

TEST(Experts, SharedRotationOfALayer) {
  const auto source = open_checkpoint(kData / "micro/qwen2_moe");
  const Conversion conversion(*source, {});
  std::vector<std::string> signs;
  for (const TensorInfo& info : conversion.outputs())
    if (info.name.starts_with("model.layers.0.mlp.") && info.name.ends_with(".signs")) signs.push_back(info.name);
  std::sort(signs.begin(), signs.end());
  EXPECT_EQ(signs,
            (std::vector<std::string>{"model.layers.0.mlp.experts.down_proj.signs", "model.layers.0.mlp.gate_up.signs",
                                      "model.layers.0.mlp.shared_expert.down_proj.signs"}));
  EXPECT_TRUE(conversion.has_experts());
}

TEST(Experts, OtherFormatsAreRefused) {
  ConvertOptions options;
  options.model = (kData / "micro/qwen2_moe").string();
  options.output = (std::filesystem::path(testing::TempDir()) / "never-written").string();
  options.format = "original";
  try {
    convert(options);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), options.model +
                                         ": a mixture of experts cannot be written with --format original; "
                                         "use --format tcq16");
  }
  EXPECT_FALSE(std::filesystem::exists(options.output));
}

}  // namespace
}  // namespace turboquant
