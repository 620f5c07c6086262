// The model against the same mathematics in plain doubles, over all shapes that a Llama can have.
#include <gtest/gtest.h>

#include "models/forward.h"
#include "models/reference_model.h"
#include "models/test_checkpoint.h"

namespace turboquant {
namespace {

std::vector<double> flat(const ReferenceModel::Rows& rows) {
  std::vector<double> all;
  for (const std::vector<double>& row : rows) all.insert(all.end(), row.begin(), row.end());
  return all;
}

void expect_reference(const TestCheckpoint& checkpoint, double bound = 1e-5) {
  const auto model = test_model(checkpoint, true);
  const std::vector<int32_t> tokens = random_tokens(37, model->info().vocab_size, 3);
  EXPECT_LT(relative_rms(one_pass(*model, tokens), flat(ReferenceModel(checkpoint).logits(tokens))), bound);
}

struct Case {
  const char* title;
  TinyLlama tiny;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const char* title, auto change) {
    all.push_back({title, {}});
    change(all.back().tiny);
  };
  add("grouped queries, tied head", [](TinyLlama&) {});
  add("untied head", [](TinyLlama& t) { t.tied = false; });
  add("attention biases", [](TinyLlama& t) { t.attention_bias = true; });
  add("mlp biases", [](TinyLlama& t) { t.mlp_bias = true; });
  add("all biases, untied", [](TinyLlama& t) { t.attention_bias = t.mlp_bias = true, t.tied = false; });
  add("wide heads", [](TinyLlama& t) { t.head_dim = 48; });
  add("narrow heads", [](TinyLlama& t) { t.hidden = 128, t.head_dim = 16, t.heads = 3, t.kv_heads = 3; });
  add("one KV head", [](TinyLlama& t) { t.heads = 6, t.kv_heads = 1; });
  add("no grouping", [](TinyLlama& t) { t.kv_heads = 4; });
  add("odd sizes", [](TinyLlama& t) { t.hidden = 44, t.intermediate = 77, t.vocab = 53, t.tied = false; });
  add("half precision", [](TinyLlama& t) { t.dtype = DType::f16; });
  add("bfloat16", [](TinyLlama& t) { t.dtype = DType::bf16, t.attention_bias = true; });
  add("one layer", [](TinyLlama& t) { t.layers = 1; });
  return all;
}

TEST(Reference, EveryShape) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.title);
    expect_reference(make_tiny_llama(c.tiny));
  }
}

TEST(Reference, HeadDimIsDerivedWhereConfigHasNone) {
  TestCheckpoint checkpoint = make_tiny_llama({});  // 64 = 4 heads of 16
  checkpoint.config().erase("head_dim");
  EXPECT_EQ(test_model(checkpoint, true)->info().attention.head_dim, 16);
  expect_reference(checkpoint);
}

TEST(Reference, KvHeadsAreAllHeadsWhereConfigHasNone) {
  TinyLlama tiny;
  tiny.kv_heads = tiny.heads;
  TestCheckpoint checkpoint = make_tiny_llama(tiny);
  checkpoint.config().erase("num_key_value_heads");
  EXPECT_EQ(test_model(checkpoint, true)->info().attention.n_kv_heads, 4);
  expect_reference(checkpoint);
}

TEST(Reference, RotaryScaling) {
  TestCheckpoint checkpoint = make_tiny_llama({});
  checkpoint.config()["rope_theta"] = 500.0;
  expect_reference(checkpoint);
  checkpoint.config()["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  expect_reference(checkpoint);
  checkpoint.config()["rope_scaling"] = {{"rope_type", "llama3"},
                                         {"factor", 8.0},
                                         {"low_freq_factor", 1.0},
                                         {"high_freq_factor", 4.0},
                                         {"original_max_position_embeddings", 64}};
  expect_reference(checkpoint);
}

TEST(Reference, SlidingWindows) {
  TestCheckpoint checkpoint = make_tiny_llama({});
  const std::vector<int32_t> tokens = random_tokens(37, 80, 3);
  const std::vector<float> full = one_pass(*test_model(checkpoint, true), tokens);
  checkpoint.config()["model_type"] = "mistral";
  for (const int64_t window : {1, 5, 16, 36}) {
    checkpoint.config()["sliding_window"] = window;
    expect_reference(checkpoint);
    EXPECT_GT(relative_rms(one_pass(*test_model(checkpoint, true), tokens), full), 1e-4) << window;
  }
  for (const int64_t window : {37, 4096}) {
    checkpoint.config()["sliding_window"] = window;
    expect_reference(checkpoint);
  }
  checkpoint.config()["sliding_window"] = 5;
  checkpoint.config()["layer_types"] = {"full_attention", "sliding_attention"};
  expect_reference(checkpoint);
}

TEST(Reference, EpsilonOfTheNorms) {
  TestCheckpoint checkpoint = make_tiny_llama({});
  checkpoint.config()["rms_norm_eps"] = 0.5;
  expect_reference(checkpoint);
}

// A change of any weight must show: a tensor that the model does not read would go unnoticed above.
TEST(Reference, EveryTensorMatters) {
  TinyLlama tiny;
  tiny.attention_bias = tiny.mlp_bias = true;
  tiny.tied = false;
  const TestCheckpoint checkpoint = make_tiny_llama(tiny);
  const std::vector<int32_t> tokens = random_tokens(9, tiny.vocab, 4);
  const std::vector<float> before = one_pass(*test_model(checkpoint, true), tokens);
  for (const TensorInfo& info : checkpoint.tensors()) {
    TestCheckpoint changed(checkpoint);
    for (int64_t i = 0; i < info.shape.elements(); i += 7) changed.poke(info.name, i, 1.5F);
    EXPECT_GT(relative_rms(one_pass(*test_model(changed, true), tokens), before), 1e-3) << info.name;
  }
}

}  // namespace
}  // namespace turboquant
