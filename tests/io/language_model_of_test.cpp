#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/config.h"
#include "io/error_of.h"
#include "io/safetensors.h"
#include "io/temp_folder.h"
#include "io/test_data.h"

namespace turboquant {
namespace {

// A folder with tensors of these names, each one number: its place in the list.
std::unique_ptr<Checkpoint> checkpoint_of(const TempFolder& folder, const std::vector<std::string>& names) {
  write_text(folder / "config.json", "{}");
  std::map<std::string, Tensor> tensors;
  for (const std::string& name : names) {
    Tensor value = Tensor::zeros(DType::f32, {1});
    value.data<float>()[0] = static_cast<float>(tensors.size());
    tensors[name] = value;
  }
  write_safetensors(folder / "model.safetensors", tensors);
  return open_checkpoint(folder.path());
}

std::vector<std::string> names_of(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const TensorInfo& info : checkpoint.tensors()) names.push_back(info.name);
  return names;
}

TEST(LanguageModelOf, PlainModelsStayAsTheyAre) {
  const auto model = open_checkpoint(kTestData / "micro/qwen3_5");
  EXPECT_EQ(model->note(), "");
  EXPECT_NE(model->find("model.embed_tokens.weight"), nullptr);
}

TEST(LanguageModelOf, TheHubLayoutHasTheNamesAndValuesOfTheTextLayout) {
  const auto hub = open_checkpoint(kTestData / "micro/qwen3_5_hub"),
             text = open_checkpoint(kTestData / "micro/qwen3_5");
  ASSERT_EQ(names_of(*hub), names_of(*text));
  for (const TensorInfo& info : text->tensors()) {
    const Tensor a = hub->read(info.name), b = text->read(info.name);
    ASSERT_EQ(a.bytes(), b.bytes()) << info.name;
    EXPECT_EQ(std::memcmp(a.data<char>(), b.data<char>(), a.bytes()), 0) << info.name;
  }
  EXPECT_EQ(hub->note(), "Left out 4 tensors that do not belong to the language model: model.visual.* (2), mtp.* (2)");
  EXPECT_TRUE(hub->file("tokenizer.json").has_value());
  EXPECT_GT(hub->size_on_disk(), text->size_on_disk());
}

TEST(LanguageModelOf, NamesOfMlx) {
  const TempFolder folder;
  const auto model = checkpoint_of(folder, {"language_model.lm_head.weight", "language_model.model.norm.weight",
                                            "vision_tower.patch_embed.weight", "language_model.mtp.fc.weight"});
  EXPECT_EQ(names_of(*model), (std::vector<std::string>{"lm_head.weight", "model.norm.weight"}));
  EXPECT_EQ(model->read("lm_head.weight").data<float>()[0], 0);
  EXPECT_EQ(model->read("model.norm.weight").data<float>()[0], 1);
  EXPECT_EQ(model->note(),
            "Left out 2 tensors that do not belong to the language model: mtp.* (1), vision_tower.* (1)");
  EXPECT_HAS(error_of([&] { model->read("vision_tower.patch_embed.weight"); }), "no tensor");
}

TEST(LanguageModelOf, ANameMayNotComeTwice) {
  const TempFolder folder;
  EXPECT_HAS(error_of([&] {
               checkpoint_of(folder, {"model.norm.weight", "model.language_model.norm.weight"});
             }),
             "are both named 'model.norm.weight'");
}

TEST(TextConfig, NestedKeysComeFirstAndNullsDoNotCount) {
  const nlohmann::json config = {{"model_type", "outer"},
                                 {"tie_word_embeddings", true},
                                 {"text_config", {{"model_type", "inner"}, {"hidden_size", 8}, {"eos", nullptr}}},
                                 {"eos", 3}};
  const nlohmann::json text = text_config(config, "here");
  EXPECT_EQ(text,
            (nlohmann::json{{"model_type", "inner"}, {"tie_word_embeddings", true}, {"hidden_size", 8}, {"eos", 3}}));
  EXPECT_EQ(text_config(text, "here"), text);
  EXPECT_HAS(error_of([] { text_config({{"text_config", 3}}, "here"); }), "'text_config' must be an object");
}

}  // namespace
}  // namespace turboquant
