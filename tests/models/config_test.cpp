// config.json: what is read from it, and one clear line for everything that is wrong with it.
#include <gtest/gtest.h>

#include "io/error_of.h"
#include "models/forward.h"
#include "models/test_checkpoint.h"

namespace turboquant {
namespace {

using nlohmann::json;

TEST(Config, WhatIsRead) {
  const auto checkpoint = open_checkpoint(kTestData / "micro/llama");
  const ModelInfo info = model_info(checkpoint->config(), "m");
  EXPECT_EQ(info.architecture, "llama");
  EXPECT_EQ(info.n_layers, 4);
  EXPECT_EQ(info.hidden_size, 192);
  EXPECT_EQ(info.intermediate_size, 320);
  EXPECT_EQ(info.vocab_size, 512);
  EXPECT_EQ(info.max_context, 4096);
  EXPECT_EQ(info.attention.n_heads, 6);
  EXPECT_EQ(info.attention.n_kv_heads, 2);
  EXPECT_EQ(info.attention.head_dim, 32);
  EXPECT_FLOAT_EQ(info.attention.scale, 0.1767767F);
  EXPECT_TRUE(info.tied_head);
}

TEST(Config, Defaults) {
  json config = make_tiny_llama({}).config();
  for (const char* key : {"max_position_embeddings", "head_dim", "num_key_value_heads", "tie_word_embeddings"})
    config.erase(key);
  const ModelInfo info = model_info(config, "m");
  EXPECT_EQ(info.max_context, 2048);
  EXPECT_EQ(info.attention.head_dim, 16);
  EXPECT_EQ(info.attention.n_kv_heads, 4);
  EXPECT_FALSE(info.tied_head);
}

TEST(Config, NullIsTheSameAsMissing) {
  TestCheckpoint checkpoint = make_tiny_llama({});
  const std::vector<int32_t> tokens = random_tokens(5, 80, 1);
  const std::vector<float> expected = one_pass(*test_model(checkpoint, true), tokens);
  for (const char* key : {"head_dim", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters", "quantization"})
    checkpoint.config()[key] = nullptr;
  EXPECT_TRUE(same_bits(one_pass(*test_model(checkpoint, true), tokens), expected));
  checkpoint.config()["rope_scaling"] = {{"rope_type", nullptr}, {"type", "default"}};
  EXPECT_TRUE(same_bits(one_pass(*test_model(checkpoint, true), tokens), expected));
}

TEST(Config, RopeParametersHoldThetaToo) {
  TestCheckpoint checkpoint = make_tiny_llama({});
  const std::vector<int32_t> tokens = random_tokens(5, 80, 1);
  checkpoint.config()["rope_theta"] = 500000.0;
  const std::vector<float> expected = one_pass(*test_model(checkpoint, true), tokens);
  checkpoint.config()["rope_theta"] = 7.0;
  EXPECT_FALSE(same_bits(one_pass(*test_model(checkpoint, true), tokens), expected));
  checkpoint.config()["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  EXPECT_TRUE(same_bits(one_pass(*test_model(checkpoint, true), tokens), expected));
}

struct BadValue {
  const char* key;    // a JSON pointer
  const char* value;  // JSON; empty: the key is removed
  const char* expected;
};

// Every message also names config.json, and the test's checkpoint by its path.
TEST(Config, BadValues) {
  const char* kLlama3 = R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                            "original_max_position_embeddings": 64})";
  const BadValue cases[] = {
      {"/model_type", "", "config.json has no 'model_type'"},
      {"/model_type", "null", "config.json has no 'model_type'"},
      {"/model_type", "\"\"", "config.json has no 'model_type'"},
      {"/model_type", "3", "'model_type' must be a string, is 3"},
      {"/model_type", "\"perceiver\"", "model_type 'perceiver' is not supported; known are: llama"},
      {"/model_type", "\"a\\nb\"", "is not supported"},
      {"/model_type", "[\"llama\"]", "'model_type' must be a string"},
      {"/num_hidden_layers", "", "'num_hidden_layers' is missing"},
      {"/hidden_size", "", "'hidden_size' is missing"},
      {"/intermediate_size", "", "'intermediate_size' is missing"},
      {"/vocab_size", "", "'vocab_size' is missing"},
      {"/num_attention_heads", "", "'num_attention_heads' is missing"},
      {"/hidden_size", "\"64\"", "'hidden_size' must be a whole number, is \"64\""},
      {"/hidden_size", "64.5", "'hidden_size' must be a whole number, is 64.5"},
      {"/hidden_size", "true", "'hidden_size' must be a whole number"},
      {"/hidden_size", "0", "'hidden_size' is out of range: 0"},
      {"/hidden_size", "-64", "'hidden_size' is out of range: -64"},
      {"/hidden_size", "99999999999", "'hidden_size' is out of range: 99999999999"},
      {"/hidden_size", "18446744073709551615", "'hidden_size' is out of range: 18446744073709551615"},
      {"/vocab_size", "[1, 2]", "'vocab_size' must be a whole number, is [1,2]"},
      {"/num_hidden_layers", "{}", "'num_hidden_layers' must be a whole number"},
      {"/max_position_embeddings", "0", "'max_position_embeddings' is out of range"},
      {"/num_key_value_heads", "3", "'num_attention_heads' is no multiple of 'num_key_value_heads'"},
      {"/num_key_value_heads", "0", "'num_key_value_heads' is out of range"},
      {"/head_dim", "24", "'head_dim' is 24; attention needs a multiple of 16"},
      {"/head_dim", "1", "'head_dim' is 1;"},
      {"/head_dim", "\"wide\"", "'head_dim' must be a whole number"},
      {"/tie_word_embeddings", "1", "'tie_word_embeddings' must be true or false, is 1"},
      {"/hidden_act", "3", "'hidden_act' must be a string, is 3"},
      {"/hidden_act", "\"gelu\"", "hidden_act 'gelu' is not supported; only silu is"},
      {"/rms_norm_eps", "\"small\"", "'rms_norm_eps' must be a number, is \"small\""},
      {"/rms_norm_eps", "-1", "'rms_norm_eps' must be above 0, is -1"},
      {"/quantization", "3", "'quantization' must be an object, is 3"},
      {"/quantization", "[]", "'quantization' must be an object"},
      {"/rope_theta", "\"big\"", "'rope_theta' must be a number, is \"big\""},
      {"/rope_theta", "0", "'rope_theta' must be above 0"},
      {"/rope_scaling", "3", "'rope_scaling' must be an object, is 3"},
      {"/rope_parameters", "\"x\"", "'rope_parameters' must be an object"},
      {"/rope_scaling", R"({"rope_type": "dynamic"})", "rope_scaling of type 'dynamic' is not supported"},
      {"/rope_scaling", R"({"rope_type": "yarn"})", "'factor' is missing"},
      {"/rope_scaling", R"({"type": 3})", "'type' must be a string, is 3"},
      {"/rope_scaling", R"({"rope_type": []})", "'rope_type' must be a string"},
      {"/rope_scaling", R"({"rope_type": "linear"})", "'factor' is missing"},
      {"/rope_scaling", R"({"rope_type": "linear", "factor": "4"})", "'factor' must be a number"},
      {"/rope_scaling", R"({"rope_type": "linear", "factor": 0})", "'factor' must be above 0"},
      {"/rope_scaling/factor", "", "'factor' is missing"},
      {"/rope_scaling/low_freq_factor", "", "'low_freq_factor' is missing"},
      {"/rope_scaling/high_freq_factor", "", "'high_freq_factor' is missing"},
      {"/rope_scaling/original_max_position_embeddings", "", "'original_max_position_embeddings' is missing"},
      {"/rope_scaling/factor", "{}", "'factor' must be a number"},
      {"/rope_scaling/low_freq_factor", "-1", "'low_freq_factor' must be above 0"},
      {"/rope_scaling/low_freq_factor", "4", "'low_freq_factor' must be below 'high_freq_factor'"},
  };
  for (const BadValue& bad : cases) {
    SCOPED_TRACE(std::string(bad.key) + " " + bad.value);
    TestCheckpoint checkpoint = make_tiny_llama({});
    checkpoint.config()["rope_scaling"] = json::parse(kLlama3);
    ASSERT_NO_THROW(test_model(checkpoint, false));
    const json::json_pointer key(bad.key);
    if (*bad.value == '\0')
      checkpoint.config()[key.parent_pointer()].erase(key.back());
    else
      checkpoint.config()[key] = json::parse(bad.value);
    const std::string error = error_of([&] { test_model(checkpoint, false); });
    EXPECT_HAS(error, bad.expected);
    EXPECT_HAS(error, "test-model: config.json");
    EXPECT_EQ(error.find("json.exception"), std::string::npos) << error;
  }
}

TEST(Config, MoreHeadsThanWidthLeaveNoHeadDim) {
  TestCheckpoint checkpoint = make_tiny_llama({});
  checkpoint.config().erase("head_dim");
  checkpoint.config()["num_attention_heads"] = 100;
  EXPECT_HAS(error_of([&] { test_model(checkpoint, false); }), "test-model: config.json: 'head_dim' is 0;");
}

TEST(Config, TensorsMustFitIt) {
  const auto error_with = [](auto change) {
    TestCheckpoint checkpoint = make_tiny_llama({});
    change(checkpoint);
    return error_of([&] { test_model(checkpoint, false); });
  };
  const auto vector_of = [](int64_t n) { return Tensor::zeros(DType::f32, {n}); };
  EXPECT_HAS(error_with([](TestCheckpoint& c) { c.config()["hidden_size"] = 128; }),
             "test-model: tensor 'model.embed_tokens.weight': F32 [80, 64], expected F32 [80, 128] from config.json");
  EXPECT_HAS(error_with([](TestCheckpoint& c) { c.config()["num_hidden_layers"] = 3; }),
             "tensor 'model.layers.2.input_layernorm.weight': missing");
  EXPECT_HAS(error_with([](TestCheckpoint& c) { c.config()["head_dim"] = 32; }),
             "tensor 'model.layers.0.self_attn.q_proj.weight': F32 [64, 64], expected F32 [128, 64]");
  EXPECT_HAS(error_with([](TestCheckpoint& c) { c.config()["tie_word_embeddings"] = false; }),
             "tensor 'lm_head.weight': missing");
  EXPECT_HAS(error_with([](TestCheckpoint& c) { c.remove("model.norm.weight"); }),
             "tensor 'model.norm.weight': missing");
  EXPECT_HAS(error_with([](TestCheckpoint& c) { c.remove("model.layers.1.mlp.up_proj.weight"); }),
             "tensor 'model.layers.1.mlp.up_proj.weight': missing");
  EXPECT_HAS(error_with([&](TestCheckpoint& c) { c.set("model.norm.weight", vector_of(63)); }),
             "tensor 'model.norm.weight': F32 [63], expected F32 [64]");
  EXPECT_HAS(error_with([&](TestCheckpoint& c) { c.set("model.layers.0.self_attn.q_proj.bias", vector_of(5)); }),
             "tensor 'model.layers.0.self_attn.q_proj.bias': F32 [5], expected F32 [64]");
  EXPECT_HAS(error_with([](TestCheckpoint& c) { c.set("model.norm.weight", Tensor::zeros(DType::i32, {64})); }),
             "tensor 'model.norm.weight': expected F32, F16 or BF16, got I32");
  EXPECT_HAS(error_with([](TestCheckpoint& c) {
               c.set("model.layers.0.mlp.up_proj.weight", Tensor::zeros(DType::i8, {96, 64}));
             }),
             "tensor 'model.layers.0.mlp.up_proj.weight': I8 is no type of weights");
}

}  // namespace
}  // namespace turboquant
