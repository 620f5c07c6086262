// Bits of every matrix: globs, presets, what they give in files, and that mixed bits compute what they should.
#include "convert/precision.h"

#include <gtest/gtest.h>

#include <set>

#include "convert/in_memory.h"
#include "io/error_of.h"
#include "io/temp_folder.h"
#include "models/summary.h"
#include "nn/linear.h"
#include "quant/rotation.h"
#include "quant/tile.h"
#include "turboquant/convert.h"

namespace turboquant {
namespace {

ConversionSpec mixed(const std::vector<std::string>& bits_for, int bits = 3, const std::string& format = "tcq16",
                     const std::string& preset = "") {
  ConversionSpec spec = spec_of(format, bits);
  set_precision(spec, {}, preset, bits_for);
  return spec;
}

/// The bits of a matrix in a checkpoint, 16 for one that stayed.
int stored_bits(const Checkpoint& checkpoint, const std::string& module) {
  const TensorInfo& info = *checkpoint.find(module + ".weight");
  if (info.dtype != DType::u8) return 16;
  for (const int bits : {2, 3, 4, 8})
    if (info.shape.back() == block_bytes(bits)) return bits;
  return 0;
}

TEST(Precision, RulesAreParsed) {
  const BitsRule rule = parse_bits_rule("*.self_attn.[qk]_proj=8");
  EXPECT_EQ(rule.glob, "*.self_attn.[qk]_proj");
  EXPECT_EQ(rule.bits, 8);
  EXPECT_EQ(parse_bits_rule("a=b=16").glob, "a=b");
  for (const char* bad : {"", "*", "=4", "*.down_proj=", "*.down_proj=5", "*=x", "*=4x", "*=-3", "*=99999999999"})
    EXPECT_THROW(parse_bits_rule(bad), UsageError) << bad;
  EXPECT_HAS(error_of([] { parse_bits_rule("*=6"); }), "--bits-for *=6: bits are 2, 3, 4, 8, or 16");
  EXPECT_HAS(error_of([] { parse_bits_rule("*.down_proj"); }), "give GLOB=BITS");
  EXPECT_HAS(error_of([] { preset_rules("fast", 3); }), "--preset fast: unknown; use dense or moe");
}

TEST(Precision, LaterRulesWinAndNamesMayHaveTheirSuffix) {
  const auto source = open_checkpoint(kTestData / "micro/llama");
  const auto result = converted(*source, mixed({"*=2", "*.layers.1.*=4", "model.layers.1.mlp.down_proj.weight=8",
                                                "*.layers.?.self_attn.o_proj=16", "*embed*=4"}));
  const auto bits = [&](const char* module) { return stored_bits(*result, module); };
  EXPECT_EQ(bits("model.layers.0.self_attn.q_proj"), 2);
  EXPECT_EQ(bits("model.layers.1.self_attn.q_proj"), 4);
  EXPECT_EQ(bits("model.layers.1.mlp.down_proj"), 8);
  EXPECT_EQ(bits("model.layers.2.mlp.down_proj"), 2);
  EXPECT_EQ(bits("model.layers.1.self_attn.o_proj"), 16);
  EXPECT_EQ(bits("model.embed_tokens"), 4);
  EXPECT_EQ(result->find("model.norm.weight")->dtype, DType::bf16);
  // Nothing reads o_proj's input in the rotated basis any more; q, k and v share theirs whatever their bits.
  EXPECT_EQ(result->find("model.layers.1.self_attn.o_proj.signs"), nullptr);
  EXPECT_NE(result->find("model.layers.1.self_attn.qkv.signs"), nullptr);
}

TEST(Precision, ConfigNamesWhatDiffers) {
  const auto source = open_checkpoint(kTestData / "micro/llama");
  const auto modules = [&](const ConversionSpec& spec) {
    std::map<std::string, int> found;
    const nlohmann::json quantization = Conversion(*source, spec).config().at("quantization");
    for (const auto& [key, value] : quantization.items())
      if (value.is_object()) found[key] = value.at("bits");
    return found;
  };
  EXPECT_EQ(modules(mixed({})), (std::map<std::string, int>()));
  EXPECT_EQ(modules(mixed({"*=3", "*.embed_tokens=8", "*.layers.0.mlp.up_proj=8", "*.layers.3.*.k_proj=16"})),
            (std::map<std::string, int>{{"model.layers.0.mlp.up_proj", 8}, {"model.layers.3.self_attn.k_proj", 16}}));
  EXPECT_EQ(modules(mixed({"*embed*=4"})), (std::map<std::string, int>{{"model.embed_tokens", 4}}));

  // Experts by what they share, or one by one.
  const auto experts = open_checkpoint(kTestData / "micro/qwen2_moe");
  const nlohmann::json quantization =
      Conversion(*experts, mixed({"*.0.mlp.experts.*.down_proj=4", "*.2.mlp.experts.5.up_proj=8"}))
          .config()
          .at("quantization");
  std::set<std::string> keys;
  for (const auto& [key, value] : quantization.items())
    if (value.is_object()) keys.insert(key);
  EXPECT_EQ(keys,
            (std::set<std::string>{"model.layers.0.mlp.experts.down_proj", "model.layers.2.mlp.experts.5.up_proj"}));
}

TEST(Precision, GlobsThatMatchNothingAreErrors) {
  const auto source = open_checkpoint(kTestData / "micro/qwen2_moe");
  EXPECT_HAS(error_of([&] {
               Conversion(*source, mixed({"*.down_proj=4", "*.w2=4"}));
             }),
             "qwen2_moe: --bits-for '*.w2' matches no tensor");
  for (const char* never : {"*.mlp.gate=8", "*.shared_expert_gate=4", "*norm*=8", "*.q_proj.bias=8"})
    EXPECT_HAS(error_of([&] { Conversion(*source, mixed({never})); }), "matches only tensors that are never compressed")
        << never;
}

// A rule for all of a block leaves what must stay.
TEST(Precision, RoutersStay) {
  const auto source = open_checkpoint(kTestData / "micro/qwen2_moe");
  const auto result = converted(*source, mixed({"*=2"}, 3, "tcq16", "moe"));
  for (const char* name : {"model.layers.0.mlp.gate.weight", "model.layers.0.mlp.shared_expert_gate.weight",
                           "model.layers.0.input_layernorm.weight"})
    EXPECT_EQ(result->find(name)->dtype, DType::bf16) << name;
  EXPECT_EQ(stored_bits(*result, "model.layers.0.mlp.experts.0.up_proj"), 2);  // an explicit rule wins over the preset
}

TEST(Precision, GptOssKeepsAttentionAtEightBits) {
  const auto source = open_checkpoint(kTestData / "micro/gpt_oss_mxfp4");
  const auto result = converted(*source, mixed({}));
  EXPECT_EQ(stored_bits(*result, "model.layers.2.self_attn.k_proj"), 8);
  EXPECT_EQ(stored_bits(*result, "model.layers.2.self_attn.o_proj"), 8);
  EXPECT_EQ(stored_bits(*result, "model.layers.2.mlp.experts.7.up_proj"), 3);
  EXPECT_EQ(result->find("model.layers.2.mlp.router.weight")->dtype, DType::bf16);
  EXPECT_EQ(result->config().at("quantization").at("model.layers.2.self_attn.k_proj").at("bits"), 8);
  const auto three = converted(*source, mixed({"*.self_attn.*=3"}));
  EXPECT_EQ(stored_bits(*three, "model.layers.2.self_attn.k_proj"), 3);
  // Other architectures and formats: as ever.
  EXPECT_EQ(stored_bits(*converted(*open_checkpoint(kTestData / "micro/qwen2_moe"), mixed({})),
                        "model.layers.2.self_attn.k_proj"),
            3);
  const auto original = converted(*source, mixed({}, 3, "original"));
  EXPECT_EQ(original->find("model.layers.2.self_attn.k_proj.codebook")->shape, Shape{8});
}

TEST(Precision, TheOriginalsFormatHasOneNumberOfBits) {
  const auto source = open_checkpoint(kTestData / "micro/qwen2_moe");
  const auto error = [&](const char* rule) {
    return error_of([&] { Conversion(*source, mixed({rule}, 3, "original")); });
  };
  EXPECT_HAS(error("*.v_proj=4"), "this format has one number of bits for the whole model, 3, or 16");
  EXPECT_HAS(error("*.v_proj=8"), "--bits-for gives 8 bits to 'model.layers.0.self_attn.v_proj.weight'");
  EXPECT_HAS(error("*.experts.3.up_proj=16"), "this format stacks the experts of a layer");
  const auto result = converted(*source, mixed({"*.v_proj=16", "*.experts.*.up_proj=16"}, 3, "original"));
  EXPECT_EQ(result->find("model.layers.0.self_attn.v_proj.codebook"), nullptr);
  EXPECT_EQ(result->find("model.layers.0.self_attn.v_proj.weight")->dtype, DType::bf16);
  EXPECT_EQ(result->find("model.layers.0.mlp.experts.3.up_proj.weight")->dtype, DType::bf16);
  EXPECT_EQ(result->find("model.layers.0.mlp.experts.3.down_proj.weight")->dtype, DType::u32);
  ConvertOptions options;
  options.format = "original";
  options.preset = "dense";
  EXPECT_THROW(conversion_spec(options), UsageError);
}

TEST(Precision, PresetsRaiseWhatMatters) {
  const auto llama = open_checkpoint(kTestData / "micro/llama");
  for (const int bits : {2, 3, 4}) {
    const auto result = converted(*llama, mixed({}, bits, "tcq16", "dense"));
    EXPECT_EQ(stored_bits(*result, "model.layers.0.self_attn.v_proj"), bits == 4 ? 8 : bits + 1);
    EXPECT_EQ(stored_bits(*result, "model.layers.0.self_attn.o_proj"), bits == 4 ? 4 : bits + 1);
    EXPECT_EQ(stored_bits(*result, "model.layers.0.mlp.down_proj"), bits == 4 ? 4 : bits + 1);
    EXPECT_EQ(stored_bits(*result, "model.layers.0.mlp.up_proj"), bits);
    EXPECT_EQ(stored_bits(*result, "model.embed_tokens"), 8);
  }
  const auto result = converted(*open_checkpoint(kTestData / "micro/qwen2_moe"), mixed({}, 2, "tcq16", "moe"));
  EXPECT_EQ(stored_bits(*result, "model.layers.0.self_attn.q_proj"), 8);
  EXPECT_EQ(stored_bits(*result, "model.layers.0.mlp.shared_expert.up_proj"), 8);
  EXPECT_EQ(stored_bits(*result, "model.layers.0.mlp.experts.2.up_proj"), 2);
  EXPECT_EQ(stored_bits(*result, "model.layers.0.mlp.experts.2.down_proj"), 2);
}

// Layers of one input with 2, 3, 4, 8 and 16 bits side by side, in attention, in a dense block, and among experts: each
// reads the input in its own basis and type.
TEST(Precision, MixedBitsComputeWithTheirWeights) {
  struct Model {
    const char* name;
    std::vector<std::string> bits_for;
  };
  const Model models[] = {
      {"llama", {"*.q_proj=8", "*.k_proj=16", "*.v_proj=2", "*.gate_proj=16", "*.up_proj=8", "*embed*=4"}},
      {"qwen2_moe",
       {"*.k_proj=8", "*.v_proj=16", "*.gate_proj=8", "*.experts.*.up_proj=4", "*.experts.1.up_proj=16",
        "*.experts.[2-4].down_proj=8", "*.experts.5.*=16", "*.shared_expert.up_proj=2", "lm_head=3"}},
      {"gpt_oss_mxfp4", {"*.experts.*.gate_proj=8", "*.experts.0.*=16", "*.experts.*.down_proj=4", "lm_head=16"}}};
  for (const Model& model : models) {
    SCOPED_TRACE(model.name);
    const auto source = open_checkpoint(kTestData / "micro" / model.name);
    const auto result = converted(*source, mixed(model.bits_for));
    const TestCheckpoint plain = decompressed(*result, *source);
    const std::vector<int32_t> tokens = random_tokens(24, 512, 5);
    const std::vector<float> expected = one_pass(*test_model(plain, true), tokens);
    EXPECT_LT(relative_rms(one_pass(*test_model(*result, true), tokens), expected), 1e-5);
    const double error = relative_rms(one_pass(*test_model(*result, false), tokens), expected);
    EXPECT_LT(error, 0.2);  // int8 inputs; a wrong basis gives 1
    EXPECT_GT(error, 1e-6);
    // One token at a time: other kernels.
    const auto stepped = test_model(*result, false);
    Cache cache = stepped->make_cache();
    std::vector<float> logits;
    for (const int32_t token : tokens) {
      const std::vector<float> row = forward(*stepped, cache, std::vector<int32_t>{token});
      logits.insert(logits.end(), row.begin(), row.end());
    }
    EXPECT_TRUE(same_bits(logits, one_pass(*test_model(*result, false), tokens)));
  }
}

TEST(Precision, SummaryShowsBitsByRole) {
  const auto source = open_checkpoint(kTestData / "micro/llama");
  const Summary summary = summarize(*converted(*source, mixed({"*.v_proj=8", "*.down_proj=4", "*.o_proj=16"})));
  std::map<std::string, uint64_t> tensors;
  for (const auto& [key, share] : summary.matrices)
    if (key.first == Role::linear) tensors[key.second] = share.tensors;
  EXPECT_EQ(tensors, (std::map<std::string, uint64_t>{
                         {"BF16", 4}, {"TCQ16 3 bits", 16}, {"TCQ16 4 bits", 4}, {"int8 rows", 4}}));
}

TEST(Precision, FolderEqualsTheConversionInMemory) {
  const TempFolder folder;
  ConvertOptions options;
  options.model = (kTestData / "micro/qwen2_moe").string();
  options.output = (folder / "out").string();
  options.preset = "moe";
  options.bits_for = {"*.experts.*.up_proj=2", "*embed*=16"};
  convert(options);
  const auto source = open_checkpoint(options.model), written = open_checkpoint(folder / "out");
  expect_same_tensors(*written, *converted(*source, conversion_spec(options)));
  EXPECT_EQ(stored_bits(*written, "model.embed_tokens"), 16);
  EXPECT_EQ(stored_bits(*written, "model.layers.3.mlp.experts.3.up_proj"), 2);
}

}  // namespace
}  // namespace turboquant
