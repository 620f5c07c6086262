// A GGUF file seen as a Hugging Face checkpoint: names, rows, config, tokenizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>

#include "core/half.h"
#include "io/checkpoint.h"
#include "io/error_of.h"
#include "io/files.h"
#include "io/gguf_builder.h"

namespace turboquant {
namespace {

using nlohmann::json;

json file_of(const GgufBuilder& builder, std::string_view name) {
  const TemporaryFile path(builder.build());
  return json::parse(open_gguf_checkpoint(path.path())->file(name).value());
}

json config_of(const GgufBuilder& builder) {
  const TemporaryFile path(builder.build());
  return open_gguf_checkpoint(path.path())->config();
}

TEST(GgufCheckpoint, NamesAndShapesAreHuggingFaces) {
  const TemporaryFile path(tiny_llama().build());
  const auto checkpoint = open_gguf_checkpoint(path.path());
  const std::map<std::string, Shape> expected = {
      {"model.embed_tokens.weight", {6, 8}},
      {"model.layers.0.input_layernorm.weight", {8}},
      {"model.layers.0.mlp.down_proj.weight", {8, 12}},
      {"model.layers.0.mlp.gate_proj.weight", {12, 8}},
      {"model.layers.0.mlp.up_proj.weight", {12, 8}},
      {"model.layers.0.post_attention_layernorm.weight", {8}},
      {"model.layers.0.self_attn.k_proj.weight", {4, 8}},
      {"model.layers.0.self_attn.o_proj.weight", {8, 8}},
      {"model.layers.0.self_attn.q_proj.weight", {8, 8}},
      {"model.layers.0.self_attn.v_proj.weight", {4, 8}},
      {"model.norm.weight", {8}},
  };
  ASSERT_EQ(checkpoint->tensors().size(), expected.size());
  auto tensor = checkpoint->tensors().begin();
  for (const auto& [name, shape] : expected) {  // both in the order of names
    EXPECT_EQ(tensor->name, name);
    EXPECT_EQ(tensor->shape, shape);
    EXPECT_EQ(tensor->dtype, DType::f32);
    const Tensor data = checkpoint->read(name);
    EXPECT_EQ(data.shape(), shape);
    EXPECT_EQ(data.dtype(), DType::f32);
    ++tensor;
  }
  EXPECT_EQ(checkpoint->find("lm_head.weight"), nullptr);
  EXPECT_NE(error_of([&] { checkpoint->read("lm_head.weight"); }).find("'lm_head.weight'"), std::string::npos);
  EXPECT_EQ(checkpoint->size_on_disk(), std::filesystem::file_size(path.path()));
  // Stored as they are: a view of the file, not a copy.
  EXPECT_EQ(checkpoint->read("model.norm.weight").data<float>(), checkpoint->read("model.norm.weight").data<float>());
  EXPECT_EQ(checkpoint->read("model.embed_tokens.weight").data<float>()[9], 9.0F);
}

TEST(GgufCheckpoint, QAndKRowsAreInHuggingFacesOrder) {
  // llama.cpp's converter moves row (head, half, i) to (head, i, half); heads of 4: 0 1 2 3 becomes 0 2 1 3.
  std::vector<float> q_stored(64), k_stored(32), q_bias(8), k_bias(4), v_bias = {0, 1, 2, 3};
  const std::vector<int> order = {0, 2, 1, 3, 4, 6, 5, 7};
  for (size_t row = 0; row < 8; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      q_stored[row * 8 + column] = static_cast<float>(order[row] * 10) + static_cast<float>(column);
      if (row < 4) k_stored[row * 8 + column] = q_stored[row * 8 + column];
    }
    q_bias[row] = static_cast<float>(order[row]);
    if (row < 4) k_bias[row] = q_bias[row];
  }
  auto builder = tiny_llama().without("blk.0.attn_q.weight").without("blk.0.attn_k.weight");
  builder.tensor("blk.0.attn_q.weight", {8, 8}, q_stored).tensor("blk.0.attn_k.weight", {4, 8}, k_stored);
  builder.tensor("blk.0.attn_q.bias", {8}, q_bias).tensor("blk.0.attn_k.bias", {4}, k_bias);
  builder.tensor("blk.0.attn_v.bias", {4}, v_bias);
  const TemporaryFile path(builder.build());
  const auto checkpoint = open_gguf_checkpoint(path.path());
  for (const std::string name : {"q", "k", "v"}) {
    const std::string stem = "model.layers.0.self_attn." + name + "_proj";
    const Tensor bias = checkpoint->read(stem + ".bias");
    for (int64_t row = 0; row < bias.dim(0); ++row) EXPECT_EQ(bias.data<float>()[row], static_cast<float>(row)) << name;
    if (name == "v") continue;
    const Tensor weight = checkpoint->read(stem + ".weight");
    for (int64_t row = 0; row < weight.dim(0); ++row)
      for (int64_t column = 0; column < 8; ++column)
        EXPECT_EQ(weight.data<float>()[row * 8 + column], static_cast<float>(row * 10 + column)) << name;
  }
  EXPECT_EQ(checkpoint->config()["attention_bias"], true);
  EXPECT_EQ(checkpoint->config()["mlp_bias"], false);
}

TEST(GgufCheckpoint, TypesAreKeptAndBlocksBecomeHalf) {
  // Width 32, so that a row is a block; one head of 32, whose q rows are interleaved.
  GgufBuilder b;
  b.text("general.architecture", "llama").u32("llama.block_count", 1).u32("llama.context_length", 64);
  b.u32("llama.embedding_length", 32).u32("llama.feed_forward_length", 32).u32("llama.attention.head_count", 1);
  b.f32("llama.attention.layer_norm_rms_epsilon", 1e-6F);
  std::string blocks;  // Q8_0: every value of row r is r / 4
  for (int row = 0; row < 32; ++row)
    blocks += Bytes().put(float_to_half(0.25F)).raw(std::string(32, static_cast<char>(row))).text();
  const std::string halves(64, '\x3c'), two(2 * 64, '\x3f');
  b.tensor("token_embd.weight", 1, {1, 32}, halves).tensor("output.weight", 30, {2, 32}, two);
  b.tensor("blk.0.attn_q.weight", 8, {32, 32}, blocks).tensor("blk.0.attn_v.weight", 8, {32, 32}, blocks);
  b.tensor("blk.0.ffn_up.weight", 8, {32, 32}, blocks).tensor("blk.0.ffn_up.bias", 1, {32}, halves);
  const TemporaryFile path(b.build());
  const auto checkpoint = open_gguf_checkpoint(path.path());
  const Tensor embedding = checkpoint->read("model.embed_tokens.weight");
  EXPECT_EQ(embedding.dtype(), DType::f16);
  EXPECT_EQ(embedding.data<uint16_t>(), checkpoint->read("model.embed_tokens.weight").data<uint16_t>());
  EXPECT_EQ(embedding.data<uint16_t>()[31], 0x3c3c);
  EXPECT_EQ(checkpoint->read("lm_head.weight").dtype(), DType::bf16);
  const Tensor v = checkpoint->read("model.layers.0.self_attn.v_proj.weight");
  const Tensor q = checkpoint->read("model.layers.0.self_attn.q_proj.weight");
  ASSERT_EQ(v.dtype(), DType::f16);
  for (int row = 0; row < 32; ++row)
    for (int column = 0; column < 32; ++column) {
      EXPECT_EQ(half_to_float(v.data<uint16_t>()[row * 32 + column]), static_cast<float>(row) / 4);
      const int stored = row % 16 * 2 + row / 16;
      EXPECT_EQ(half_to_float(q.data<uint16_t>()[row * 32 + column]), static_cast<float>(stored) / 4);
    }
  EXPECT_EQ(checkpoint->config()["tie_word_embeddings"], false);
  EXPECT_EQ(checkpoint->config()["mlp_bias"], true);
  EXPECT_EQ(checkpoint->config()["bos_token_id"], nullptr);
  EXPECT_EQ(checkpoint->file("tokenizer.json"), std::nullopt);
  EXPECT_EQ(checkpoint->file("generation_config.json"), std::nullopt);
}

TEST(GgufCheckpoint, UnalignedTensorsAreCopied) {
  auto builder = tiny_llama().u32("general.alignment", 1);
  builder.alignment = 1;
  // The length of a text moves the data to every remainder.
  for (size_t length = 0; length < 4; ++length) {
    auto moved = builder;
    const TemporaryFile path(moved.text("general.name", std::string(length, 'n')).build());
    const auto checkpoint = open_gguf_checkpoint(path.path());
    const Tensor embedding = checkpoint->read("model.embed_tokens.weight");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(embedding.data<float>()) % 4, 0U);
    for (int i = 0; i < 48; ++i) EXPECT_EQ(embedding.data<float>()[i], static_cast<float>(i));
  }
}

TEST(GgufCheckpoint, ConfigIsHuggingFaces) {
  const json expected = json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "hidden_act": "silu", "intermediate_size": 12,
    "vocab_size": 6, "attention_bias": false, "mlp_bias": false, "max_position_embeddings": 64, "rope_scaling": null,
    "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 1, "torch_dtype": "float16"})");
  EXPECT_EQ(config_of(tiny_llama()), expected);
  EXPECT_EQ(config_of(tiny_llama().without("llama.rope.freq_base"))["rope_theta"], 10000.0);
}

TEST(GgufCheckpoint, RopeScaling) {
  const auto scaling = [](const GgufBuilder& b) { return config_of(b)["rope_scaling"]; };
  EXPECT_EQ(scaling(tiny_llama().text("llama.rope.scaling.type", "none")), nullptr);
  EXPECT_EQ(scaling(tiny_llama().text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.5F)),
            (json{{"rope_type", "linear"}, {"factor", 2.5}}));
  EXPECT_EQ(scaling(tiny_llama().f32("llama.rope.scale_linear", 4)), (json{{"rope_type", "linear"}, {"factor", 4.0}}));
  EXPECT_EQ(
      scaling(tiny_llama()
                  .text("llama.rope.scaling.type", "yarn")
                  .f32("llama.rope.scaling.factor", 4)
                  .u32("llama.rope.scaling.original_context_length", 32)
                  .f32("llama.rope.scaling.yarn_beta_fast", 16)),
      (json{{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}, {"beta_fast", 16.0}}));
  // A head of 64 with the factors of Llama 3.1 and 3.2.
  for (const float factor : {8.0F, 32.0F}) {
    GgufBuilder b;
    b.text("general.architecture", "llama").u32("llama.block_count", 1).u32("llama.context_length", 131072);
    b.u32("llama.embedding_length", 64).u32("llama.feed_forward_length", 64).u32("llama.attention.head_count", 1);
    b.f32("llama.attention.layer_norm_rms_epsilon", 1e-5F).f32("llama.rope.freq_base", 500000);
    b.tensor("token_embd.weight", {1, 64}, std::vector<float>(64));
    std::vector<float> factors(32);
    for (size_t i = 0; i < factors.size(); ++i) {  // as transformers' llama3 rule has it
      const double wavelength = 2 * std::numbers::pi * std::pow(500000.0, static_cast<double>(i) / 32);
      const double smooth = (8192 / wavelength - 1) / 3;
      if (wavelength < 8192 / 4.0) {
        factors[i] = 1;
      } else if (wavelength > 8192) {
        factors[i] = factor;
      } else {
        factors[i] = static_cast<float>(1 / ((1 - smooth) / factor + smooth));
      }
    }
    const json expected = {{"rope_type", "llama3"},
                           {"factor", factor},
                           {"low_freq_factor", 1.0},
                           {"high_freq_factor", 4.0},
                           {"original_max_position_embeddings", 8192}};
    EXPECT_EQ(scaling(GgufBuilder(b).tensor("rope_freqs.weight", {32}, factors)), expected);
    EXPECT_EQ(scaling(GgufBuilder(b).tensor("rope_freqs.weight", {32}, std::vector<float>(32, 1.0F))), nullptr);
    for (const size_t changed : {size_t{0}, size_t{16}, size_t{30}}) {
      auto other = factors;
      other[changed] *= 1.01F;
      const auto bad = GgufBuilder(b).tensor("rope_freqs.weight", {32}, other);
      EXPECT_NE(error_of([&] { scaling(bad); }).find("rope_freqs.weight"), std::string::npos) << changed;
    }
    const auto twice =
        GgufBuilder(b).tensor("rope_freqs.weight", {32}, factors).text("llama.rope.scaling.type", "linear");
    EXPECT_NE(error_of([&] { scaling(twice); }).find("twice"), std::string::npos);
  }
}

TEST(GgufCheckpoint, RefusesWhatItCannotReadRight) {
  const std::vector<float> eight(8);
  const struct {
    std::string what;
    GgufBuilder file;
    std::string message;
  } cases[] = {
      {"no architecture", tiny_llama().without("general.architecture"), "general.architecture"},
      {"architecture", tiny_llama().without("general.architecture").text("general.architecture", "rwkv7"), "'rwkv7'"},
      {"adapter", tiny_llama().text("general.type", "adapter"), "'adapter'"},
      {"part", tiny_llama().entry("split.count", 2, Bytes().put<uint16_t>(3).text()), "split model"},
      {"experts", tiny_llama().u32("llama.expert_count", 8), "mixture of experts"},
      {"other computation", tiny_llama().f32("llama.attention.scale", 0.1F), "'llama.attention.scale'"},
      {"no layers", tiny_llama().without("llama.block_count"), "'llama.block_count'"},
      {"layers 0", tiny_llama().without("llama.block_count").u32("llama.block_count", 0), "out of range"},
      {"text as size", tiny_llama().without("llama.block_count").text("llama.block_count", "1"), "expected an integer"},
      {"no epsilon", tiny_llama().without("llama.attention.layer_norm_rms_epsilon"), "rms_epsilon"},
      {"heads", tiny_llama().without("llama.attention.head_count").u32("llama.attention.head_count", 3),
       "multiple of 3"},
      {"kv heads", tiny_llama().without("llama.attention.head_count_kv").u32("llama.attention.head_count_kv", 3),
       "key-value heads"},
      {"values of another size", tiny_llama().u32("llama.attention.value_length", 2), "'llama.attention.value_length'"},
      {"partial rope", tiny_llama().without("llama.rope.dimension_count").u32("llama.rope.dimension_count", 2),
       "part of a head"},
      {"NaN", tiny_llama().without("llama.rope.freq_base").f32("llama.rope.freq_base", NAN), "finite"},
      {"rope base 0", tiny_llama().without("llama.rope.freq_base").f32("llama.rope.freq_base", 0), "positive"},
      {"longrope", tiny_llama().text("llama.rope.scaling.type", "longrope").f32("llama.rope.scaling.factor", 2),
       "'longrope'"},
      {"no scaling factor", tiny_llama().text("llama.rope.scaling.type", "linear"), "rope.scaling.factor"},
      {"unknown tensor", tiny_llama().tensor("blk.0.attn_gate.weight", {8}, eight), "'blk.0.attn_gate.weight'"},
      {"norm with a bias", tiny_llama().tensor("output_norm.bias", {8}, eight), "'output_norm.bias'"},
      {"another spelling", tiny_llama().tensor("blk.00.attn_norm.weight", {8}, eight), "'blk.00.attn_norm.weight'"},
      {"a layer too many", tiny_llama().tensor("blk.1.attn_norm.weight", {8}, eight), "has 1 layers"},
      {"rank", tiny_llama().without("output_norm.weight").tensor("output_norm.weight", {1, 8}, eight), "rank 1"},
      {"rows of q", tiny_llama().without("blk.0.attn_q.weight").tensor("blk.0.attn_q.weight", {1, 8}, eight), "8 rows"},
      {"no embedding", tiny_llama().without("token_embd.weight"), "'token_embd.weight'"},
      {"tokens without rows", tiny_llama().without("token_embd.weight").tensor("token_embd.weight", {1, 8}, eight),
       "has 6 tokens"},
      {"token id", tiny_llama().u32("tokenizer.ggml.padding_token_id", 6), "6 is not a token"},
      {"tokenizer", tiny_llama().without("tokenizer.ggml.model").text("tokenizer.ggml.model", "bert"), "'bert'"},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(test.what);
    const TemporaryFile path(test.file.build());
    const std::string message = error_of([&] { open_gguf_checkpoint(path.path()); });
    EXPECT_TRUE(message.starts_with(path.path().string() + ": ")) << message;
    EXPECT_HAS(message, test.message);
  }
}

TEST(GgufCheckpoint, HeadSizeOfItsOwn) {
  auto b = tiny_llama().without("llama.rope.dimension_count").without("blk.0.attn_q.weight");
  b.without("blk.0.attn_k.weight").u32("llama.attention.key_length", 2).u32("llama.attention.value_length", 2);
  b.tensor("blk.0.attn_q.weight", {4, 8}, std::vector<float>(32));
  EXPECT_EQ(config_of(b)["head_dim"], 2);
}

TEST(GgufTokenizer, ByteLevel) {
  const json tokenizer = file_of(tiny_llama(), "tokenizer.json");
  EXPECT_EQ(tokenizer["model"]["type"], "BPE");
  EXPECT_EQ(tokenizer["model"]["vocab"], (json{{"<s>", 0}, {"</s>", 1}, {"a", 2}, {"b", 3}, {"ab", 4}, {"<tool>", 5}}));
  EXPECT_EQ(tokenizer["model"]["merges"], json::parse(R"([["a", "b"]])"));
  EXPECT_EQ(tokenizer["model"]["ignore_merges"], false);
  EXPECT_EQ(tokenizer["pre_tokenizer"], json::parse(R"({"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": true},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]})"));
  EXPECT_EQ(tokenizer["post_processor"], nullptr);
  ASSERT_EQ(tokenizer["added_tokens"].size(), 3U);
  EXPECT_EQ(tokenizer["added_tokens"][1]["content"], "</s>");
  EXPECT_EQ(tokenizer["added_tokens"][1]["special"], true);
  EXPECT_EQ(tokenizer["added_tokens"][2]["content"], "<tool>");
  EXPECT_EQ(tokenizer["added_tokens"][2]["special"], false);
  const json config = file_of(tiny_llama(), "tokenizer_config.json");
  EXPECT_EQ(config["bos_token"], "<s>");
  EXPECT_EQ(config["eos_token"], "</s>");
  EXPECT_EQ(config["chat_template"], "{{ messages }}");
  EXPECT_EQ(config["added_tokens_decoder"]["0"]["content"], "<s>");
  EXPECT_EQ(config["model_max_length"], 64);
}

TEST(GgufTokenizer, PreTokenizers) {
  const auto with = [](const std::string& pre) {
    return file_of(tiny_llama().without("tokenizer.ggml.pre").text("tokenizer.ggml.pre", pre), "tokenizer.json");
  };
  const json llama = with("llama-bpe");
  EXPECT_EQ(llama["model"]["ignore_merges"], true);
  EXPECT_EQ(llama["pre_tokenizer"]["pretokenizers"][0]["type"], "Split");
  EXPECT_EQ(llama["pre_tokenizer"]["pretokenizers"][1]["use_regex"], false);
  EXPECT_EQ(llama["post_processor"], json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}})"));
  EXPECT_EQ(with("qwen2")["normalizer"]["type"], "NFC");
  EXPECT_EQ(with("tekken")["model"]["ignore_merges"], true);
  EXPECT_EQ(with("gpt-2")["pre_tokenizer"]["type"], "ByteLevel");
  EXPECT_NE(error_of([&] { with("viking"); }).find("'viking'"), std::string::npos);
  const auto none = tiny_llama().without("tokenizer.ggml.pre");
  EXPECT_NE(error_of([&] { file_of(none, "tokenizer.json"); }).find("'tokenizer.ggml.pre'"), std::string::npos);
}

TEST(GgufTokenizer, AddedEndsFollowTheFile) {
  const auto builder = tiny_llama().flag("tokenizer.ggml.add_bos_token", 1).flag("tokenizer.ggml.add_eos_token", 1);
  const json single = file_of(builder, "tokenizer.json")["post_processor"]["single"];
  ASSERT_EQ(single.size(), 3U);
  EXPECT_EQ(single[0]["SpecialToken"]["id"], "<s>");
  EXPECT_EQ(single[2]["SpecialToken"]["id"], "</s>");
}

TEST(GgufTokenizer, SentencePieceMergesAreThoseOfTheConverter) {
  const json fixture = json::parse(read_text(std::filesystem::path(TURBOQUANT_TEST_DATA) / "gguf/sentencepiece.json"));
  const auto tokens = fixture["tokens"].get<std::vector<std::string>>();
  auto b = tiny_llama().without("tokenizer.ggml.model").without("tokenizer.ggml.tokens").without("token_embd.weight");
  b.without("tokenizer.ggml.token_type").without("tokenizer.ggml.pre").text("tokenizer.ggml.model", "llama");
  b.texts("tokenizer.ggml.tokens", tokens).floats("tokenizer.ggml.scores", fixture["scores"].get<std::vector<float>>());
  b.ints("tokenizer.ggml.token_type", fixture["token_type"].get<std::vector<int32_t>>());
  b.u32("tokenizer.ggml.unknown_token_id", 0)
      .tensor("token_embd.weight", {tokens.size(), 8}, std::vector<float>(tokens.size() * 8));
  const json tokenizer = file_of(b, "tokenizer.json");
  EXPECT_GT(fixture["merges"].size(), 30U);
  EXPECT_EQ(tokenizer["model"]["merges"], fixture["merges"]);
  EXPECT_EQ(tokenizer["model"]["byte_fallback"], true);
  EXPECT_EQ(tokenizer["model"]["unk_token"], "<unk>");
  EXPECT_EQ(tokenizer["normalizer"], json::parse(R"({"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})"));
  EXPECT_EQ(tokenizer["decoder"]["decoders"].size(), 4U);
  EXPECT_EQ(tokenizer["pre_tokenizer"], nullptr);
  EXPECT_EQ(tokenizer["post_processor"]["single"].size(), 2U);  // a begin token unless the file says otherwise
  EXPECT_EQ(file_of(b, "tokenizer_config.json")["tokenizer_class"], "LlamaTokenizer");
  b.flag("tokenizer.ggml.add_space_prefix", 0);
  EXPECT_EQ(file_of(b, "tokenizer.json")["normalizer"]["normalizers"].size(), 1U);
  EXPECT_EQ(file_of(b, "tokenizer.json")["decoder"]["decoders"].size(), 3U);
  b.without("tokenizer.ggml.scores");
  EXPECT_NE(error_of([&] { file_of(b, "tokenizer.json"); }).find("score"), std::string::npos);
}

TEST(GgufTokenizer, EveryEndTokenIsAStop) {
  EXPECT_EQ(file_of(tiny_llama(), "generation_config.json"),
            (json{{"bos_token_id", 0}, {"eos_token_id", 1}, {"pad_token_id", 1}}));
  const auto two = tiny_llama().u32("tokenizer.ggml.eot_token_id", 5).u32("tokenizer.ggml.eom_token_id", 1);
  EXPECT_EQ(file_of(two, "generation_config.json")["eos_token_id"], (json{1, 5}));
}

TEST(GgufTokenizer, RefusesDamagedVocabularies) {
  const auto tokens = [](const std::vector<std::string>& list) {
    return tiny_llama().without("tokenizer.ggml.tokens").texts("tokenizer.ggml.tokens", list);
  };
  const auto merges = [](const std::vector<std::string>& list) {
    return tiny_llama().without("tokenizer.ggml.merges").texts("tokenizer.ggml.merges", list);
  };
  const struct {
    std::string what;
    GgufBuilder file;
    std::string message;
  } cases[] = {
      {"too few", tokens({"a", "b", "ab"}), "3 tokens but 6 token types"},
      {"twice", tokens({"<s>", "</s>", "a", "b", "ab", "a"}), "tokens 2 and 5 are the same"},
      {"not UTF-8", tokens({"<s>", "</s>", "a", "b", "ab", "\xff"}), "UTF-8"},
      {"endless token", tokens({"<s>", "</s>", "a", "b", "ab", std::string(9000, 'x')}), "token 5 is longer"},
      {"no merges", tiny_llama().without("tokenizer.ggml.merges"), "merges"},
      {"merge without a space", merges({"ab"}), "merge 0 'ab'"},
      {"merge of no tokens", merges({"a b", "a z"}), "merge 1 'a z'"},
      {"merge to no token", merges({"b a"}), "merge 0 'b a'"},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(test.what);
    const std::string message = error_of([&] { file_of(test.file, "tokenizer.json"); });
    EXPECT_HAS(message, test.message);
  }
}

}  // namespace
}  // namespace turboquant
