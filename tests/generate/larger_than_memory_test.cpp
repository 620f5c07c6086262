// Weights whose pages come and go: the same text whatever is in memory.
#include "generate/micro.h"
#include "generate/state.h"
#include "turboquant/convert.h"

namespace turboquant {
namespace {

GenerateResult generate(LanguageModel& model, const std::function<void()>& between) {
  GenerateOptions options;
  options.temperature = 0;
  options.max_tokens = 24;
  options.raw = true;
  return model.generate("Pages come and go, and the text stays as it was.", options, [&](std::string_view) {
    between();
    return true;
  });
}

TEST(LargerThanMemory, PagesDroppedBetweenTokensChangeNothing) {
  for (const char* name : {"llama", "qwen2_moe", "qwen3_5_moe_hub"}) {
    const TempFolder folder;
    ConvertOptions options;
    options.model = (kTestData / "micro" / name).string();
    options.output = (folder / "model").string();
    options.threads = 2;
    convert(options);
    LoadOptions from_file;
    from_file.repack = false;
    LanguageModel model = load_micro(folder / "model", from_file);
    const auto files = model.state().checkpoint->mapped_files();
    ASSERT_EQ(files.size(), 1u) << name;
    EXPECT_EQ(files.front()->path().filename(), "model.safetensors");
    const std::vector<int32_t> expected = generate(model, [] {}).tokens;
    int drops = 0;
    const std::vector<int32_t> tokens = generate(model, [&] {
                                          files.front()->drop_pages();
                                          ++drops;
                                        }).tokens;
    EXPECT_GT(drops, 5) << name;
    EXPECT_EQ(tokens, expected) << name;

    for (const bool repack : {true, false}) {
      LoadOptions preload;
      preload.preload = true;
      preload.repack = repack;
      LanguageModel loaded = load_micro(folder / "model", preload);
      EXPECT_EQ(generate(loaded, [] {}).tokens, expected) << name;
    }
  }
}

// One madvise an expert is enough: conversion writes its matrices one behind the other.
TEST(LargerThanMemory, MatricesOfAnExpertLieTogether) {
  const TempFolder folder;
  ConvertOptions options;
  options.model = (kTestData / "micro" / "qwen2_moe").string();
  options.output = (folder / "model").string();
  convert(options);
  const auto checkpoint = open_checkpoint(folder / "model");
  size_t experts = 0;
  for (const TensorInfo& info : checkpoint->tensors()) {
    constexpr std::string_view kGate = "gate_proj.weight";
    if (info.name.find(".experts.") == info.name.npos || !info.name.ends_with(kGate)) continue;
    const std::string prefix = info.name.substr(0, info.name.size() - kGate.size());
    uintptr_t first = UINTPTR_MAX, last = 0;
    size_t bytes = 0;
    for (const char* part : {"gate_proj", "up_proj", "down_proj"})
      for (const char* kind : {".weight", ".scales"}) {
        const Tensor tensor = checkpoint->read(prefix + part + kind);
        const auto at = reinterpret_cast<uintptr_t>(tensor.data<std::byte>());
        first = std::min(first, at);
        last = std::max(last, at + tensor.bytes());
        bytes += tensor.bytes();
      }
    EXPECT_EQ(last - first, bytes) << prefix;
    ++experts;
  }
  EXPECT_GT(experts, 0u);
}

}  // namespace
}  // namespace turboquant
