#include "io/experts.h"

#include <gtest/gtest.h>

#include <map>

#include "core/half.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

class ExpertSource final : public Checkpoint {
 public:
  explicit ExpertSource(const std::string& model_type) {
    path_ = "model";
    config_ = {{"model_type", model_type}, {"quantization_config", {{"quant_method", "mxfp4"}}}};
  }
  /// Elements 0, 1, 2, ...
  ExpertSource& add(const std::string& name, DType dtype, const Shape& shape) {
    Tensor tensor = Tensor::zeros(dtype, shape);
    for (int64_t i = 0; i < shape.elements(); ++i) {
      if (dtype == DType::f32) tensor.data<float>()[i] = static_cast<float>(i);
      if (dtype == DType::u8) tensor.data<uint8_t>()[i] = static_cast<uint8_t>(i);
      if (dtype == DType::u32) tensor.data<uint32_t>()[i] = static_cast<uint32_t>(i);
    }
    values_[name] = tensor;
    tensors_.clear();
    for (const auto& [key, value] : values_) tensors_.push_back({key, value.dtype(), value.shape()});
    return *this;
  }
  Tensor read(std::string_view name) const override { return values_.find(name)->second; }
  std::optional<std::string> file(std::string_view name) const override { return std::string(name); }
  uint64_t size_on_disk() const override { return 77; }

 private:
  std::map<std::string, Tensor, std::less<>> values_;
};

std::unique_ptr<Checkpoint> separate(const ExpertSource& source) {
  return separate_experts(std::make_unique<ExpertSource>(source));
}

std::vector<std::string> names(const Checkpoint& checkpoint) {
  std::vector<std::string> all;
  for (const TensorInfo& info : checkpoint.tensors()) all.push_back(info.name);
  return all;
}

std::vector<float> values(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* info = checkpoint.find(name);
  EXPECT_NE(info, nullptr) << name;
  const Tensor tensor = checkpoint.read(name), floats = to_float(tensor);
  EXPECT_EQ(tensor.shape(), info->shape);
  EXPECT_EQ(tensor.dtype(), info->dtype);
  return {floats.data<float>(), floats.data<float>() + floats.elements()};
}

std::string separation_error(const ExpertSource& source) {
  return error_of([&] { separate(source); });
}

TEST(SeparateExperts, OthersComeBackAsTheyAre) {
  auto source = std::make_unique<ExpertSource>("llama");
  source->add("model.layers.0.mlp.up_proj.weight", DType::f32, {2, 2});
  source->add("model.layers.0.mlp.experts.0.up_proj.weight", DType::f32, {2, 2});
  const Checkpoint* before = source.get();
  EXPECT_EQ(separate_experts(std::move(source)).get(), before);
}

TEST(SeparateExperts, NamesOfMixtral) {
  ExpertSource source("mixtral");
  const std::string block = "model.layers.0.block_sparse_moe.";
  source.add(block + "gate.weight", DType::f32, {2, 2});
  for (const char* layer : {"w1", "w2", "w3"}) source.add(block + "experts.1." + layer + ".weight", DType::f32, {1, 2});
  const auto experts = separate(source);
  const std::string mlp = "model.layers.0.mlp.";
  EXPECT_EQ(names(*experts),
            (std::vector<std::string>{mlp + "experts.1.down_proj.weight", mlp + "experts.1.gate_proj.weight",
                                      mlp + "experts.1.up_proj.weight", mlp + "gate.weight"}));
  EXPECT_EQ(experts->read(mlp + "experts.1.down_proj.weight").data<float>(),
            source.read(block + "experts.1.w2.weight").data<float>());  // a view
  EXPECT_EQ(experts->file("tokenizer.json"), "tokenizer.json");
  EXPECT_EQ(experts->size_on_disk(), 77u);
}

TEST(SeparateExperts, NamedStacks) {
  ExpertSource source("qwen2_moe");
  const std::string stack = "model.layers.3.mlp.switch_mlp.up_proj.", mlp = "model.layers.3.mlp.experts.";
  source.add(stack + "weight", DType::u32, {2, 3, 2}).add(stack + "bias", DType::f32, {2, 3});
  source.add(stack + "codebook", DType::f32, {8}).add(stack + "signs", DType::f32, {4});
  const auto experts = separate(source);
  EXPECT_EQ(names(*experts),
            (std::vector<std::string>{mlp + "0.up_proj.bias", mlp + "0.up_proj.weight", mlp + "1.up_proj.bias",
                                      mlp + "1.up_proj.weight", mlp + "up_proj.codebook", mlp + "up_proj.signs"}));
  const Tensor words = experts->read(mlp + "1.up_proj.weight");
  EXPECT_EQ(words.shape(), (Shape{3, 2}));
  EXPECT_EQ(words.data<uint32_t>(), source.read(stack + "weight").data<uint32_t>() + 6);
  EXPECT_EQ(values(*experts, mlp + "1.up_proj.bias"), (std::vector<float>{3, 4, 5}));
}

TEST(SeparateExperts, GateAndUpTakeTurnsInGptOss) {
  ExpertSource source("gpt_oss");
  const std::string mlp = "model.layers.0.mlp.experts.";
  source.add(mlp + "gate_up_proj", DType::f32, {2, 3, 4}).add(mlp + "gate_up_proj_bias", DType::f32, {2, 4});
  source.add(mlp + "down_proj", DType::f32, {2, 2, 3}).add(mlp + "down_proj_bias", DType::f32, {2, 3});
  const auto experts = separate(source);
  EXPECT_EQ(experts->tensors().size(), 12u);
  // [inputs, outputs] of expert 1 begins at 12: columns 0 and 2 are the gate's.
  EXPECT_EQ(values(*experts, mlp + "1.gate_proj.weight"), (std::vector<float>{12, 16, 20, 14, 18, 22}));
  EXPECT_EQ(values(*experts, mlp + "1.up_proj.weight"), (std::vector<float>{13, 17, 21, 15, 19, 23}));
  EXPECT_EQ(values(*experts, mlp + "1.down_proj.weight"), (std::vector<float>{6, 9, 7, 10, 8, 11}));
  EXPECT_EQ(values(*experts, mlp + "1.gate_proj.bias"), (std::vector<float>{4, 6}));
  EXPECT_EQ(values(*experts, mlp + "1.up_proj.bias"), (std::vector<float>{5, 7}));
  EXPECT_EQ(values(*experts, mlp + "0.down_proj.bias"), (std::vector<float>{0, 1, 2}));
  EXPECT_TRUE(experts->config().contains("quantization_config"));  // nothing was decoded
}

TEST(SeparateExperts, UpFollowsGateElsewhere) {
  ExpertSource source("qwen3_5_moe");
  const std::string mlp = "model.layers.0.mlp.experts.";
  source.add(mlp + "gate_up_proj", DType::f32, {2, 4, 3}).add(mlp + "down_proj", DType::f32, {2, 3, 2});
  const auto experts = separate(source);
  EXPECT_EQ(values(*experts, mlp + "1.gate_proj.weight"), (std::vector<float>{12, 13, 14, 15, 16, 17}));
  EXPECT_EQ(values(*experts, mlp + "1.up_proj.weight"), (std::vector<float>{18, 19, 20, 21, 22, 23}));
  EXPECT_EQ(values(*experts, mlp + "1.down_proj.weight"), (std::vector<float>{6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(experts->read(mlp + "1.up_proj.weight").data<float>(),
            source.read(mlp + "gate_up_proj").data<float>() + 18);  // a view
}

TEST(SeparateExperts, Mxfp4) {
  ExpertSource source("gpt_oss");
  const std::string mlp = "model.layers.0.mlp.experts.";
  source.add(mlp + "down_proj_blocks", DType::u8, {2, 3, 2, 16}).add(mlp + "down_proj_scales", DType::u8, {2, 3, 2});
  source.add(mlp + "gate_up_proj_blocks", DType::u8, {2, 4, 1, 16});
  source.add(mlp + "gate_up_proj_scales", DType::u8, {2, 4, 1});
  auto* scales = source.read(mlp + "down_proj_scales").data<uint8_t>();
  scales[11] = 130;  // expert 1, row 2, second block
  scales[10] = 255;
  scales[9] = 254;
  const auto experts = separate(source);
  EXPECT_EQ(experts->tensors().size(), 6u);
  EXPECT_EQ(experts->find(mlp + "1.up_proj.weight")->shape, (Shape{2, 32}));
  const std::vector<float> down = values(*experts, mlp + "1.down_proj.weight");
  ASSERT_EQ(down.size(), 3u * 64);
  constexpr float kValues[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6, -0.0F, -0.5F, -1, -1.5F, -2, -3, -4, -6};
  for (size_t i = 0; i < 32; ++i) {
    const size_t byte = (11 * 16 + i / 2) % 256, code = i % 2 == 0 ? byte % 16 : byte / 16;
    EXPECT_EQ(down[2 * 64 + 32 + i], 8 * kValues[code]) << i;
    EXPECT_TRUE(std::isnan(down[2 * 64 + i]));
  }
  // Gate: even rows. Row 2 of expert 1 is block 6; its scale is 6, 2^-121.
  const std::vector<float> gate = values(*experts, mlp + "1.gate_proj.weight");
  EXPECT_EQ(gate[32 + 3], kValues[6] * 0x1p-121F);  // byte 97 = 0x61: its upper half
  EXPECT_FALSE(experts->config().contains("quantization_config"));
}

TEST(SeparateExperts, WrongStacks) {
  const std::string mlp = "model.layers.0.mlp.experts.";
  EXPECT_EQ(separation_error(ExpertSource("gpt_oss").add(mlp + "gate_up_proj", DType::f32, {2, 3})),
            "model: tensor '" + mlp +
                "gate_up_proj' F32 [2, 3]: expected [experts, inputs, outputs] or [experts, outputs, inputs]");
  EXPECT_EQ(
      separation_error(ExpertSource("gpt_oss").add(mlp + "gate_up_proj", DType::f32, {2, 3, 3})),
      "model: tensor '" + mlp + "gate_up_proj' F32 [2, 3, 3]: expected an even number of outputs, of gate and up");
  EXPECT_EQ(separation_error(ExpertSource("gpt_oss").add(mlp + "down_proj", DType::u8, {2, 3, 3})),
            "model: tensor '" + mlp + "down_proj' U8 [2, 3, 3]: expected F32, F16 or BF16");
  EXPECT_EQ(separation_error(ExpertSource("gpt_oss").add(mlp + "down_proj", DType::f32, {100000, 1, 1})),
            "model: tensor '" + mlp +
                "down_proj' F32 [100000, 1, 1]: expected [experts, inputs, outputs] or [experts, outputs, inputs]");
  EXPECT_EQ(separation_error(ExpertSource("gpt_oss").add(mlp + "up_proj.weight", DType::u32, {int64_t{1} << 40, 0, 4})),
            "model: tensor '" + mlp + "up_proj.weight' U32 [1099511627776, 0, 4]: expected a stack of experts");
  EXPECT_EQ(separation_error(ExpertSource("gpt_oss").add(mlp + "down_proj_blocks", DType::u8, {2, 3, 1, 16})),
            "model: tensor '" + mlp + "down_proj_scales': missing");
  EXPECT_EQ(separation_error(ExpertSource("gpt_oss")
                                 .add(mlp + "down_proj_blocks", DType::u8, {2, 3, 1, 16})
                                 .add(mlp + "down_proj_scales", DType::u8, {2, 3, 2})),
            "model: tensor '" + mlp + "down_proj_scales' U8 [2, 3, 2]: expected U8 [2, 3, 1]");
  EXPECT_EQ(separation_error(ExpertSource("gpt_oss").add(mlp + "down_proj_blocks", DType::u8, {2, 3, 1, 8})),
            "model: tensor '" + mlp + "down_proj_blocks' U8 [2, 3, 1, 8]: expected U8 [experts, outputs, blocks, 16]");
  EXPECT_EQ(separation_error(ExpertSource("qwen2_moe")
                                 .add(mlp + "0.up_proj.weight", DType::f32, {2, 3})
                                 .add("model.layers.0.mlp.switch_mlp.up_proj.weight", DType::f32, {1, 2, 3})),
            "model: tensor 'model.layers.0.mlp.switch_mlp.up_proj.weight': '" + mlp +
                "0.up_proj.weight' is in the checkpoint twice, under two names");
}

}  // namespace
}  // namespace turboquant
