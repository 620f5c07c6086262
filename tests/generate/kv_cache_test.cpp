// Caches of a loaded model: read in steps, forked, trimmed, converted, saved and restored, each time to the last bit;
// and the files that are refused.
#include "turboquant/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "generate/micro.h"
#include "io/error_of.h"
#include "io/safetensors.h"
#include "io/temp_folder.h"
#include "turboquant/language_model.h"

namespace turboquant {
namespace {

LanguageModel load(const std::string& name, const std::string& bits = "fp16", int64_t start = 0) {
  LoadOptions options;
  options.kv.bits = bits;
  options.kv.start = start;
  options.threads = 2;
  return LanguageModel::load((kTestData / "micro" / name).string(), options);
}

/// Logits behind all tokens, by a new cache in one go.
std::vector<float> direct(LanguageModel& model, const std::vector<int32_t>& tokens) {
  KvCache cache = model.make_cache();
  return model.forward(cache, tokens);
}

// Layers of full attention, with windows, and of linear attention, mixed as the models mix them.
TEST(KvCache, AnyOrderOfOperationsGoesOnToTheLastBit) {
  const TempFolder folder;
  const std::string file = (folder.path() / "cache").string();
  for (const char* name : {"llama", "gpt_oss", "qwen3_5"})
    for (const char* bits : {"fp16", "k4v3"}) {
      LanguageModel model = load(name, bits);
      const std::vector<int32_t> text = random_tokens(330, model.vocab_size(), 3);
      std::mt19937 random(7);
      std::vector<KvCache> caches;
      caches.push_back(model.make_cache());
      for (int step = 0; step < 24; ++step) {
        KvCache& cache = caches[random() % caches.size()];
        const size_t length = cache.tokens().size();
        switch (random() % 5) {
          case 0:
            if (caches.size() < 3) caches.push_back(cache.fork());
            break;
          case 1: {
            const int64_t left = cache.trim(static_cast<int64_t>(length) - static_cast<int64_t>(random() % 70));
            ASSERT_EQ(static_cast<size_t>(left), cache.tokens().size());
            break;
          }
          case 2: {
            cache.save(file);
            KvCache restored = model.load_cache(file);
            ASSERT_EQ(restored.tokens(), cache.tokens());
            ASSERT_EQ(restored.bytes(), cache.bytes());
            cache = std::move(restored);
            break;
          }
          default: {
            const size_t end = std::min(text.size(), length + 1 + random() % 120);
            if (end == length) break;
            ASSERT_TRUE(same_bits(model.forward(cache, part(text, length, end)), direct(model, part(text, 0, end))))
                << name << " " << bits << ", step " << step << ": " << length << " to " << end;
          }
        }
      }
    }
}

TEST(KvCache, TheThreeSteps) {
  LanguageModel model = load("llama");
  const std::vector<int32_t> text = random_tokens(800, model.vocab_size(), 4);
  KvCache cache = model.make_cache();
  model.forward(cache, part(text, 0, 768));
  EXPECT_EQ(cache.bits(), "fp16");
  const uint64_t before = cache.bytes();
  convert_cache_to_turboquant(cache, 3);
  EXPECT_EQ(cache.bits(), "3");
  EXPECT_LT(cache.bytes(), before / 2);  // 128 tokens are still exact
  EXPECT_EQ(cache.tokens().size(), 768u);
  const std::vector<float> after = model.forward(cache, part(text, 768, 800)), exact = direct(model, text);
  EXPECT_GT(relative_rms(after, exact), 0);
  EXPECT_LT(relative_rms(after, exact), 0.6);
  EXPECT_HAS(error_of([&] { convert_cache_to_turboquant(cache, 3); }), "compressed already, to 3");
  EXPECT_HAS(error_of([&] { convert_cache_to_turboquant(cache, 5); }), "2, 3, 4 or 8");
  EXPECT_HAS(error_of([&] { convert_cache_to_turboquant(cache, 3, 7); }), "--kv-group-size 7: use 32, 64 or 128");
  EXPECT_HAS(error_of([&] { model.forward(cache, {}); }), "no tokens");
  EXPECT_HAS(error_of([&] { load("llama").forward(cache, {1}); }), "the cache is of another model");
}

// A cache that starts in full precision equals one that is converted by hand.
TEST(KvCache, StartsLater) {
  LanguageModel plain = load("llama"), later = load("llama", "k4v3", 200);
  const std::vector<int32_t> text = random_tokens(320, plain.vocab_size(), 5);
  KvCache by_hand = plain.make_cache(), by_itself = later.make_cache();
  const std::vector<float> at_start = plain.forward(by_hand, part(text, 0, 200));
  EXPECT_EQ(by_itself.bits(), "fp16");
  EXPECT_TRUE(same_bits(later.forward(by_itself, part(text, 0, 200)), at_start));
  EXPECT_EQ(by_itself.bits(), "k4v3");
  KvCacheOptions options;
  options.bits = "k4v3";
  convert_cache(by_hand, options);
  EXPECT_TRUE(same_bits(later.forward(by_itself, part(text, 200, 320)), plain.forward(by_hand, part(text, 200, 320))));
}

TEST(KvCache, AfterThePrompt) {
  std::string prompt;
  for (int i = 0; i < 60; ++i) prompt += "the quick brown fox " + std::to_string(i) + " ";
  GenerateOptions options;
  options.temperature = 0;
  options.max_tokens = 10;
  LanguageModel plain = load("llama"), behind = load("llama", "2", KvCacheOptions::kAfterPrompt),
                at_once = load("llama", "2");
  const std::vector<int32_t> tokens = plain.encode(prompt);
  ASSERT_GT(tokens.size(), 300u);

  KvCache cache = plain.make_cache();
  std::vector<float> logits = plain.forward(cache, tokens);
  convert_cache_to_turboquant(cache, 2);
  std::vector<int32_t> expected;
  for (int i = 0; i < 10; ++i) {
    expected.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    if (i < 9) logits = plain.forward(cache, {expected.back()});
  }
  const GenerateResult result = behind.generate(prompt, options);
  EXPECT_EQ(result.tokens, expected);
  EXPECT_EQ(result.cache_bytes, cache.bytes());
  EXPECT_EQ(result.tokens.front(), plain.generate(prompt, options).tokens.front());
}

TEST(KvCache, GenerateGoesOnFromWhatItSharesWithThePrompt) {
  const TempFolder folder;
  const std::string file = (folder.path() / "cache").string();
  for (const char* name : {"llama", "qwen3_5"}) {
    LanguageModel model = load(name, "k4v3");
    std::string prompt;
    for (int i = 0; i < 40; ++i) prompt += "a line of text " + std::to_string(i) + "\n";
    GenerateOptions options;
    options.temperature = 0;
    options.max_tokens = 12;
    const GenerateResult alone = model.generate(prompt, options);
    KvCache cache = model.make_cache();
    options.cache = &cache;
    options.on_prompt = [&] { cache.save(file); };
    const GenerateResult first = model.generate(prompt, options);
    EXPECT_EQ(first.tokens, alone.tokens) << name;
    EXPECT_EQ(first.cached_tokens, 0);
    EXPECT_EQ(cache.tokens().size(), static_cast<size_t>(first.prompt_tokens) + first.tokens.size() - 1);
    KvCache restored = model.load_cache(file);
    EXPECT_EQ(restored.tokens().size(), static_cast<size_t>(first.prompt_tokens) - 1);
    options.on_prompt = {};
    options.cache = &restored;
    const GenerateResult second = model.generate(prompt, options);
    EXPECT_EQ(second.tokens, alone.tokens) << name;
    EXPECT_EQ(second.cached_tokens, second.prompt_tokens - 1);
    const GenerateResult other = model.generate("something else", options);  // shares nothing
    EXPECT_EQ(other.cached_tokens, 0);
    options.cache = nullptr;
    EXPECT_EQ(other.tokens, model.generate("something else", options).tokens) << name;
  }
}

class CacheFiles : public testing::Test {
 protected:
  CacheFiles() : model_(load("llama", "k4v3")) {
    KvCache cache = model_.make_cache();
    model_.forward(cache, random_tokens(200, model_.vocab_size(), 6));
    cache.save(file_);
  }
  std::string problem(const LanguageModel& model) const {
    return error_of([&] { model.load_cache(file_); });
  }
  std::string bytes() const {
    std::ifstream in(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write(const std::string& bytes) const { std::ofstream(file_, std::ios::binary) << bytes; }

  TempFolder folder_;
  std::string file_ = (folder_.path() / "cache").string();
  LanguageModel model_;
};

TEST_F(CacheFiles, OfOtherModelsAndSettingsAreRefused) {
  EXPECT_NO_THROW(model_.load_cache(file_));
  EXPECT_HAS(problem(load("qwen2", "k4v3")), "the cache is of another model");
  EXPECT_HAS(problem(load("llama", "3")), "made with --kv-bits 'k4v3', not 3");
  EXPECT_HAS(problem(load("llama")), "made with --kv-bits 'k4v3', not fp16");
  EXPECT_NO_THROW(load("llama", "k4v3", 1000).load_cache(file_));  // saved after it was compressed
  LoadOptions options;
  options.kv.bits = "k4v3";
  options.kv.keep_layers = 1;
  const std::string path = (kTestData / "micro" / "llama").string();
  EXPECT_HAS(problem(LanguageModel::load(path, options)), "made with --kv-keep-layers '0', not 1");
  options.kv.keep_layers = 0;
  options.exact = true;
  EXPECT_HAS(problem(LanguageModel::load(path, options)), "made with --exact 'no', not yes");
  EXPECT_HAS(error_of([&] { model_.load_cache((folder_.path() / "none").string()); }), "none");
  EXPECT_HAS(error_of([&] { model_.load_cache((kTestData / "micro" / "llama" / "model.safetensors").string()); }),
             "not a KV cache");
}

TEST_F(CacheFiles, CutShortAreRefused) {
  const std::string whole = bytes();
  ASSERT_GT(whole.size(), 10'000u);
  std::mt19937 random(1);
  for (int i = 0; i < 40; ++i) {
    write(whole.substr(0, i == 0 ? whole.size() - 1 : random() % whole.size()));
    EXPECT_HAS(problem(model_), file_);
  }
}

// Flipped bits in the header must not crash; a file that still says the same may be taken.
TEST_F(CacheFiles, DamagedHeaders) {
  const std::string whole = bytes();
  const size_t header =
      8 + static_cast<size_t>(static_cast<unsigned char>(whole[0]) + 256 * static_cast<unsigned char>(whole[1]));
  std::mt19937 random(2);
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    std::string damaged = whole;
    damaged[random() % header] ^= static_cast<char>(1 << random() % 7);
    write(damaged);
    try {
      model_.load_cache(file_);
    } catch (const Error& error) {
      ++refused;
      EXPECT_HAS(std::string(error.what()), file_);
    }
  }
  EXPECT_GT(refused, 200);
}

TEST_F(CacheFiles, TensorsThatDoNotFit) {
  const SafetensorsFile file(file_);
  std::map<std::string, Tensor> tensors;
  for (const TensorInfo& info : file.tensors()) tensors[info.name] = file.tensor(info.name);
  const auto with = [&](const auto& change) {
    std::map<std::string, Tensor> changed = tensors;
    change(changed);
    write_safetensors(file_, changed, file.metadata());
    return problem(model_);
  };
  EXPECT_HAS(with([](auto& t) { t.erase("tokens"); }), "damaged: no tensor 'tokens'");
  EXPECT_HAS(with([](auto& t) { t.erase("layers.1.keys"); }), "damaged: layer 1: no tensor 'keys'");
  EXPECT_HAS(with([](auto& t) { t["layers.2.blocks"] = t["layers.2.blocks"].rows(0, 1); }),
             "layer 2: 'blocks' is U8 [1, ");
  EXPECT_HAS(with([](auto& t) { t["tokens"] = t["tokens"].rows(0, 190); }), "layer 0");
  EXPECT_HAS(with([](auto& t) { t["tokens"] = from_float(std::vector<float>(200).data(), {200}, DType::f32); }),
             "no tensor 'tokens' I32");
  EXPECT_HAS(with([](auto& t) {
               Tensor ids = Tensor::zeros(DType::i32, {200});
               ids.data<int32_t>()[9] = 5000;
               t["tokens"] = ids;
             }),
             "token 5000 is not in the vocabulary");
}

TEST(KvCache, OptionsThatDoNotFit) {
  const auto refused = [](const auto& change) {
    KvCacheOptions options;
    options.bits = "3";
    change(options);
    return error_of([&] { load("llama").make_cache(options); });
  };
  EXPECT_HAS(refused([](auto& o) { o.dtype = "float32"; }), "leave out --cache-dtype");
  EXPECT_HAS(refused([](auto& o) { o.format = "none"; }), "use tcq or original");
  EXPECT_HAS(refused([](auto& o) {
               o.format = "original";
               o.bits = "8";
             }),
             "2, 3 and 4 bits");
  EXPECT_HAS(refused([](auto& o) { o.start = -2; }), "--kv-start -2");
  EXPECT_HAS(refused([](auto& o) { o.keep_layers = -1; }), "--kv-keep-layers -1");
}

}  // namespace
}  // namespace turboquant
