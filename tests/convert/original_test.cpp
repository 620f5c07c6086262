// Files of the original: written byte for byte, read back, and what they compute.
#include <gtest/gtest.h>

#include <cstdio>
#include <mutex>

#include "convert/in_memory.h"
#include "io/error_of.h"

namespace turboquant {
namespace {

uint64_t add_bytes(uint64_t value, const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) value = (value ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  return value;
}

// 64-bit FNV-1a, as scripts/make_original_fixtures.py computes it.
std::string checksum_with_type(const Tensor& tensor) {
  const std::string kind = std::string(name(tensor.dtype())) + " " + to_string(tensor.shape());
  char text[17];
  const uint64_t value =
      add_bytes(add_bytes(0xcbf29ce484222325, kind.data(), kind.size()), tensor.data<std::byte>(), tensor.bytes());
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

struct Conversions {
  std::string model;
  ConversionSpec spec;
};

/// "qwen2_moe-4b-g32-qjl"
Conversions conversion_named(const std::string& name) {
  const size_t dash = name.find('-');
  const int bits = name[dash + 1] - '0', group = std::stoi(name.substr(name.find("-g") + 2));
  Conversions result{name.substr(0, dash), spec_of("mlx", bits, group)};
  result.spec.linear.qjl = name.ends_with("-qjl");
  return result;
}

// Every tensor of every conversion: names, types, shapes, bytes.
TEST(OriginalFiles, AreWrittenBitForBit) {
  const nlohmann::json hashes = read_json(kTestData / "tq/hashes.json");
  EXPECT_EQ(hashes.size(), 14u);
  for (const auto& [name, expected] : hashes.items()) {
    SCOPED_TRACE(name);
    const auto [model, spec] = conversion_named(name);
    const auto source = open_checkpoint(kTestData / "micro" / model);
    const Conversion conversion(*source, spec);
    std::map<std::string, std::string> written;
    std::mutex mutex;
    conversion.run(*two_threads(), [&](const std::string& tensor, const Tensor& values) {
      const std::lock_guard lock(mutex);
      written[tensor] = checksum_with_type(values);
    });
    EXPECT_EQ(written.size(), conversion.outputs().size());
    EXPECT_EQ(written.size(), expected.size());
    for (const auto& [tensor, hash] : expected.items()) EXPECT_EQ(written[tensor], hash.get<std::string>()) << tensor;
  }
}

// mlx-lm renames one key of a rotary embedding as it reads it; it takes either name.
void rename_type(nlohmann::json& config) {
  nlohmann::json& rope = config.at("rope_parameters");
  rope["rope_type"] = rope.at("type");
  rope.erase("type");
}

TEST(OriginalFiles, ConfigIsTheOriginals) {
  for (const std::string folder : {"llama-3b-g64", "qwen2_moe-3b-g64", "qwen3_5_hub-3b-g64", "gpt_oss_mxfp4-3b-g64"}) {
    const auto [model, spec] = conversion_named(folder);
    nlohmann::json expected = read_json(kTestData / "tq" / folder / "config.json");
    if (model == "qwen3_5_hub") rename_type(expected.at("text_config"));
    const auto source = open_checkpoint(kTestData / "micro" / model);
    EXPECT_EQ(Conversion(*source, spec).config(), expected) << folder;
  }
}

TEST(OriginalFiles, ConfigSaysWhatMlxReads) {
  TestCheckpoint source = make_tiny_llama({});
  source.config()["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 5000.0}};
  source.config().erase("tie_word_embeddings");
  ConversionSpec spec = spec_of("mlx", 3, 32);
  spec.linear.qjl = true;
  const nlohmann::json config = Conversion(source, spec).config();
  EXPECT_EQ(config.at("rope_theta"), 5000.0);
  EXPECT_EQ(config.at("rope_scaling"), (nlohmann::json{{"rope_type", "linear"}, {"factor", 2.0}}));
  EXPECT_EQ(config.at("tie_word_embeddings"), false);
  EXPECT_EQ(config.at("quantization").at("use_qjl"), true);
  source.config()["rope_theta"] = 7.0;
  source.config()["rope_scaling"] = nullptr;
  const nlohmann::json kept = Conversion(source, spec).config();
  EXPECT_EQ(kept.at("rope_theta"), 7.0);
  EXPECT_TRUE(kept.at("rope_scaling").is_null());
}

TEST(OriginalFiles, LayerTypesOfQwen35) {
  TestCheckpoint source(*open_checkpoint(kTestData / "micro/qwen3_5"));
  const auto config = [&] { return Conversion(source, spec_of("mlx", 3)).config(); };
  EXPECT_EQ(config().at("full_attention_interval"), 3);
  EXPECT_EQ(config().at("model_type"), "qwen3_5");
  source.config()["layer_types"][0] = "full_attention";
  EXPECT_FALSE(config().contains("full_attention_interval"));
  const Conversion irregular(source, spec_of("mlx", 3));
  ASSERT_EQ(irregular.warnings().size(), 1u);
  EXPECT_HAS(irregular.warnings()[0], "turboquant-mlx cannot run these 'layer_types'");
  EXPECT_TRUE(Conversion(source, spec_of("tcq16", 3)).warnings().empty());
  source.config()["full_attention_interval"] = 6;
  EXPECT_EQ(config().at("full_attention_interval"), 6);
}

// A tied head beside the embedding, and tables that are computed, are not the model's.
TEST(OriginalFiles, LeavesOutWhatMlxDoes) {
  TestCheckpoint source = make_tiny_llama({});
  source.set("lm_head.weight", source.read("model.embed_tokens.weight"));
  source.set("model.layers.0.self_attn.rotary_emb.inv_freq", Tensor::zeros(DType::f32, {8}));
  for (const TensorInfo& info : Conversion(source, spec_of("mlx", 3, 32)).outputs()) {
    EXPECT_FALSE(info.name.starts_with("lm_head")) << info.name;
    EXPECT_FALSE(info.name.ends_with("inv_freq")) << info.name;
  }
}

// What mlx-lm saved is in its layout already: nothing is added to norms a second time.
TEST(OriginalFiles, NormsOfQwen35AreChangedOnce) {
  const auto source = open_checkpoint(kTestData / "micro/qwen3_5");
  TestCheckpoint sanitized(*source);
  for (const TensorInfo& info : source->tensors())
    if (info.name.ends_with("conv1d.weight"))
      sanitized.set(info.name, source->read(info.name).reshape({info.shape[0], info.shape[2], 1}));
  const std::string norm = "model.layers.0.input_layernorm.weight";
  const Tensor before = to_float(source->read(norm));
  const Tensor once = to_float(converted(*source, spec_of("mlx", 3))->read(norm));
  const Tensor kept = to_float(converted(sanitized, spec_of("mlx", 3))->read(norm));
  for (int64_t i = 0; i < before.elements(); ++i) {
    EXPECT_NEAR(once.data<float>()[i], 1 + before.data<float>()[i], 0.01);
    EXPECT_EQ(kept.data<float>()[i], before.data<float>()[i]);
  }
}

// The original's logits of models with QJL, at every eighth position. It rounds parts of the correction to half
// precision.
TEST(OriginalFiles, LogitsWithQjl) {
  for (const std::string folder : {"llama-3b-g64-qjl", "qwen2_moe-4b-g32-qjl"}) {
    SCOPED_TRACE(folder);
    const auto [model, spec] = conversion_named(folder);
    const SafetensorsFile golden(kTestData / "tq" / folder / "golden.safetensors");
    const Tensor ids = golden.tensor("input_ids"), logits = golden.tensor("logits");  // [B, T], [B, T / 8, V]
    const int64_t length = ids.dim(1), vocab = logits.dim(2), every = length / logits.dim(1);
    ASSERT_EQ(every, 8);
    const auto source = open_checkpoint(kTestData / "micro" / model);
    const auto small = converted(*source, spec);
    const auto error_of_model = [&](bool qjl) {
      const auto loaded = load_model(*small, make_cpu_ops(two_threads()), {true, {DType::f32}, qjl});
      std::vector<float> chosen;
      for (int64_t b = 0; b < ids.dim(0); ++b) {
        const std::vector<float> all =
            one_pass(*loaded, std::span(ids.data<int32_t>() + b * length, static_cast<size_t>(length)));
        for (int64_t t = every - 1; t < length; t += every)
          chosen.insert(chosen.end(), all.begin() + t * vocab, all.begin() + (t + 1) * vocab);
      }
      return relative_rms(chosen, std::span(logits.data<float>(), static_cast<size_t>(logits.elements())));
    };
    EXPECT_LT(error_of_model(true), 2e-3);
    EXPECT_GT(error_of_model(false), 1e-2);  // the correction is worth something
  }
}

// Experts have none, as there.
TEST(OriginalFiles, QjlOfPlainLayersAlone) {
  const auto source = open_checkpoint(kTestData / "micro/qwen2_moe");
  const auto [model, spec] = conversion_named("qwen2_moe-4b-g32-qjl");
  int plain = 0;
  for (const TensorInfo& info : Conversion(*source, spec).outputs()) {
    EXPECT_FALSE(info.name.find("switch_mlp") != info.name.npos && info.name.find("qjl") != info.name.npos)
        << info.name;
    plain += info.name.ends_with(".qjl_packed") ? 1 : 0;
  }
  EXPECT_EQ(plain, 29);
}

TEST(OriginalFiles, HashSeedsGiveOtherSigns) {
  const auto source = open_checkpoint(kTestData / "micro/llama");
  ConversionSpec spec = spec_of("mlx", 3);
  const std::string signs = "model.layers.0.self_attn.q_proj.signs";
  const Tensor zero = converted(*source, spec)->read(signs);
  spec.python_hash_seed = 1;
  const Tensor one = converted(*source, spec)->read(signs);
  EXPECT_NE(checksum_with_type(zero), checksum_with_type(one));
}

}  // namespace
}  // namespace turboquant
