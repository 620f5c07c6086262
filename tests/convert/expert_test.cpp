// Conversion of models with experts.
#include <gtest/gtest.h>

#include <atomic>

#include "convert/conversion.h"
#include "io/experts.h"
#include "io/safetensors.h"
#include "models/expert_forward.h"
#include "models/expert_reference.h"
#include "turboquant/convert.h"

namespace turboquant {
namespace {

using namespace experts_test;

TEST(Experts, CompressedTokensAreIndependentAndClose) {
  ThreadPool pool(2);
  for (const char* name : {"qwen2_moe", "gpt_oss_mxfp4"}) {
    const auto source = open_checkpoint(kTestData / "micro" / name);
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
  const auto source = open_checkpoint(kTestData / "micro/qwen2_moe");
  const Conversion conversion(*source, {});
  std::vector<std::string> signs;
  for (const TensorInfo& info : conversion.outputs())
    if (info.name.starts_with("model.layers.0.mlp.") && info.name.ends_with(".signs")) signs.push_back(info.name);
  std::sort(signs.begin(), signs.end());
  EXPECT_EQ(signs,
            (std::vector<std::string>{"model.layers.0.mlp.experts.down_proj.signs", "model.layers.0.mlp.gate_up.signs",
                                      "model.layers.0.mlp.shared_expert.down_proj.signs"}));
}

ConversionSpec stacked(QuantSpec::Method method) {
  ConversionSpec spec;
  spec.linear.method = method;
  spec.linear.bits = 3;
  return spec;
}

// Every tensor of a folder that the original wrote, byte by byte.
TEST(Experts, OriginalFilesAreWrittenBitForBit) {
  ThreadPool pool(2);
  for (const char* name : {"qwen2_moe", "gpt_oss_mxfp4"}) {
    SCOPED_TRACE(name);
    const auto source = open_checkpoint(kTestData / "micro" / name);
    const SafetensorsFile original(kTestData / "tq" / (std::string(name) + "-3b-g64") / "model.safetensors");
    const Conversion conversion(*source, stacked(QuantSpec::Method::original));
    std::atomic<size_t> written = 0;
    conversion.run(pool, [&](const std::string& tensor, const Tensor& values) {
      const TensorInfo* info = original.find(tensor);
      ASSERT_NE(info, nullptr) << tensor;
      EXPECT_EQ(values.dtype(), info->dtype) << tensor;
      ASSERT_EQ(values.shape(), info->shape) << tensor;
      EXPECT_EQ(std::memcmp(values.data<std::byte>(), original.tensor(tensor).data<std::byte>(), values.bytes()), 0)
          << tensor;
      ++written;
    });
    EXPECT_EQ(written, original.tensors().size());
    EXPECT_EQ(conversion.outputs().size(), written);
  }
}

TEST(Experts, StacksComputeTheSameInMemoryAndFromFiles) {
  ThreadPool pool(2);
  const std::vector<int32_t> tokens = some_tokens(40, 512, 6);
  ConvertOptions options;
  options.model = (kTestData / "micro/qwen2_moe").string();
  options.output = (std::filesystem::path(testing::TempDir()) / "stacked-experts").string();
  options.format = "original";
  std::filesystem::remove_all(options.output);
  EXPECT_EQ(convert(options).linear_layers, 100);
  const auto source = open_checkpoint(options.model), written = open_checkpoint(options.output);
  const auto in_memory = convert_in_memory(*source, Conversion(*source, stacked(QuantSpec::Method::original)), pool);
  EXPECT_TRUE(same(whole(*load(*written, true), tokens), whole(*load(*in_memory, true), tokens)));
  std::filesystem::remove_all(options.output);
}

TEST(Experts, AffineStacks) {
  ThreadPool pool(2);
  const auto source = open_checkpoint(kTestData / "micro/qwen2_moe");
  ConversionSpec spec = stacked(QuantSpec::Method::affine);
  spec.linear.bits = 8;
  const auto affine = convert_in_memory(*source, Conversion(*source, spec), pool);
  const std::vector<int32_t> tokens = some_tokens(40, 512, 6);
  const double e = error(whole(*load(*affine, true), tokens), whole(*load(*source, true), tokens));
  EXPECT_LT(e, 0.3);
  EXPECT_GT(e, 1e-5);
}

// Down projections of 96 inputs do not fit groups of 64: their stacks stay as they are.
TEST(Experts, StacksOfMixtral) {
  ThreadPool pool(2);
  const auto source = separate_experts(std::make_unique<MemoryModel>(make_expert_model("mixtral")));
  const Conversion conversion(*source, stacked(QuantSpec::Method::original));
  EXPECT_EQ(conversion.warnings().size(), 3u);
  std::map<std::string, TensorInfo> outputs;
  for (const TensorInfo& info : conversion.outputs()) outputs[info.name] = info;
  const std::string block = "model.layers.2.block_sparse_moe.";
  EXPECT_EQ(outputs.at(block + "gate.weight").shape, (Shape{7, 64}));
  EXPECT_EQ(outputs.at(block + "switch_mlp.up_proj.weight").shape, (Shape{7, 96, 7}));
  EXPECT_EQ(outputs.at(block + "switch_mlp.up_proj.scales").shape, (Shape{7, 96, 1}));
  EXPECT_EQ(outputs.at(block + "switch_mlp.up_proj.signs").shape, (Shape{64}));
  EXPECT_EQ(outputs.at(block + "switch_mlp.down_proj.weight").shape, (Shape{7, 64, 96}));
  const auto compressed = convert_in_memory(*source, conversion, pool);
  EXPECT_EQ(compressed->find("model.layers.2.mlp.experts.6.up_proj.weight")->shape, (Shape{96, 7}));
  const std::vector<int32_t> tokens = some_tokens(20, 80, 6);
  const double e = error(whole(*load(*compressed, true), tokens), whole(*load(*source, true), tokens));
  EXPECT_LT(e, 1);
  EXPECT_GT(e, 1e-3);
}

TEST(Experts, StacksWithAGapAreRefused) {
  class Gap final : public Checkpoint {
   public:
    Gap() {
      path_ = "gap";
      config_ = {{"model_type", "qwen2_moe"}};
      tensors_ = {{"model.layers.0.mlp.experts.0.up_proj.weight", DType::f32, {16, 64}},
                  {"model.layers.0.mlp.experts.2.up_proj.weight", DType::f32, {16, 64}}};
    }
    Tensor read(std::string_view) const override { return {}; }
    std::optional<std::string> file(std::string_view) const override { return std::nullopt; }
    uint64_t size_on_disk() const override { return 0; }
  };
  const Gap gap;
  try {
    const Conversion conversion(gap, stacked(QuantSpec::Method::original));
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "gap: tensor 'model.layers.0.mlp.experts.2.up_proj.weight' F32 [16, 64]: experts cannot be stacked: "
                 "one is missing, or their shapes differ");
  }
  EXPECT_NO_THROW(Conversion(gap, {}));
}

}  // namespace
}  // namespace turboquant
