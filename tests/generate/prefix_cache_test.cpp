// What texts have in common: found in the tree, counted once, given up in the order of its use, kept across a restart;
// and that an engine's requests get by it what they would get without.
#include "generate/prefix_cache.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string_view>
#include <thread>

#include "generate/engine_support.h"
#include "io/error_of.h"
#include "io/temp_folder.h"

namespace turboquant {
namespace {

/// A tree, and caches to fill it with.
struct Tree {
  explicit Tree(const std::string& name, const std::string& bits = "fp16") : model(load_for_engine(name, bits)) {}

  Cache read(const std::vector<int32_t>& tokens) {
    KvCache cache = model.make_cache();
    model.forward(cache, tokens);
    return std::move(cache.state().cache);
  }
  void insert(const std::vector<int32_t>& tokens) { prefixes.insert(tokens, read(tokens)); }
  std::vector<int32_t> text(size_t count, uint32_t seed) { return random_tokens(count, model.vocab_size(), seed); }

  LanguageModel model;
  PrefixCache prefixes{[](const Cache&, int64_t) { return true; }};
};

TEST(PrefixCache, FindsTheLongestBeginning) {
  for (const char* name : {"llama", "qwen3_5"}) {  // caches that go back, and caches that do not
    Tree tree(name);
    const bool goes_back = std::string(name) == "llama";
    const std::vector<int32_t> a = tree.text(60, 1), b = joined(part(a, 0, 40), tree.text(30, 2)),
                               c = joined(part(a, 0, 20), tree.text(5, 3)), d = tree.text(10, 4);
    for (const auto& text : {a, part(a, 0, 20), b, d}) tree.insert(text);
    const auto expect = [&](const std::vector<int32_t>& text, int64_t common, int64_t length) {
      const PrefixCache::Match match = tree.prefixes.find(text);
      EXPECT_EQ(match.common, common);
      EXPECT_EQ(match.length, length);
      if (length == 0) return;
      const Cache cache = tree.prefixes.take(match);
      EXPECT_EQ(cache.length(), length);
    };
    expect(a, 60, 60);
    expect(b, 70, 70);
    expect(part(a, 0, 50), 50, goes_back ? 50 : 20);
    expect(part(a, 0, 20), 20, 20);
    expect(c, 20, 20);
    expect(part(a, 0, 10), 10, goes_back ? 10 : 0);
    expect(joined(d, a), 10, 10);
    expect(tree.text(10, 5), 0, 0);
    expect({}, 0, 0);
    // Caches that go back take the place of those before them.
    EXPECT_EQ(tree.prefixes.size(), goes_back ? 3u : 4u);
  }
}

TEST(PrefixCache, GoesOnToTheLastBit) {
  for (const char* name : {"llama", "gpt_oss", "qwen3_5"})
    for (const char* bits : {"fp16", "k4v3"}) {
      if (kSanitized && std::string_view(bits) == "fp16" && std::string_view(name) != "qwen3_5") continue;
      Tree tree(name, bits);
      const std::vector<int32_t> a = tree.text(500, 1);
      for (const size_t length : {500, 256, 300}) tree.insert(part(a, 0, length));
      for (const size_t length : {500, 470, 400, 300, 299, 260, 100}) {
        const std::vector<int32_t> text = joined(part(a, 0, length), tree.text(20, 2));
        const PrefixCache::Match match = tree.prefixes.find(text);
        KvCache found = tree.model.make_cache(), direct = tree.model.make_cache();
        if (match.length > 0) found.state().cache = tree.prefixes.take(match);
        EXPECT_TRUE(same_bits(tree.model.forward(found, part(text, static_cast<size_t>(match.length), text.size())),
                              tree.model.forward(direct, text)))
            << name << " " << bits << ", " << match.length << " of " << length;
      }
    }
}

TEST(PrefixCache, SharedMemoryCountsOnce) {
  Tree tree("llama");
  const std::vector<int32_t> a = tree.text(1100, 1), b = joined(part(a, 0, 1024), tree.text(100, 2));
  tree.insert(a);
  const double alone = tree.prefixes.bytes();
  EXPECT_EQ(alone, 5 * 65536 * 4);  // pages of 256 tokens in each of 4 layers
  Cache from_a = tree.prefixes.take(tree.prefixes.find(part(a, 0, 1024)));
  KvCache fork = tree.model.make_cache();
  fork.state().cache = std::move(from_a);
  tree.model.forward(fork, part(b, 1024, b.size()));
  tree.prefixes.insert(b, std::move(fork.state().cache));
  EXPECT_EQ(tree.prefixes.size(), 2u);
  EXPECT_NEAR(tree.prefixes.bytes(), alone + 65536 * 4, 1);
  // The one that was used last stays; what both have is not free before it is gone, too.
  EXPECT_EQ(tree.prefixes.evict(), 65536u * 4);
  EXPECT_EQ(tree.prefixes.find(b).length, 1124);
  EXPECT_EQ(tree.prefixes.find(a).length, 1024);
  EXPECT_EQ(tree.prefixes.evict(), 5u * 65536 * 4);
  EXPECT_EQ(tree.prefixes.evict(), std::nullopt);
  EXPECT_EQ(tree.prefixes.find(a).common, 0);
  EXPECT_EQ(tree.prefixes.bytes(), 0);
}

TEST(PrefixCache, GivesUpWhatWasNotUsedForLongest) {
  Tree tree("qwen3_5");
  std::vector<std::vector<int32_t>> texts;
  const std::vector<int32_t> shared = tree.text(10, 100);
  for (uint32_t i = 0; i < 4; ++i) {
    texts.push_back(joined(shared, tree.text(10 + i, i)));
    tree.insert(texts.back());
  }
  tree.prefixes.take(tree.prefixes.find(texts[0]));
  tree.insert(texts[2]);  // is there already
  for (const size_t next : {1, 3, 0, 2}) {
    EXPECT_EQ(tree.prefixes.find(texts[next]).length, static_cast<int64_t>(texts[next].size()));
    EXPECT_TRUE(tree.prefixes.evict().has_value());
    EXPECT_EQ(tree.prefixes.find(texts[next]).length, 0);
  }
}

// Requests of one prompt, one after the other and at once: read once, whatever the caches can do.
TEST(PrefixCache, AnEngineReadsWhatIsSharedOnce) {
  for (const char* name : {"llama", "gpt_oss", "qwen3_5"})
    for (const char* bits : {"fp16", "k4v3"}) {
      if (kSanitized && (std::string_view(bits) == "fp16" || std::string_view(name) != "gpt_oss")) continue;
      LanguageModel model = load_for_engine(name, bits);
      const std::vector<int32_t> shared = random_tokens(1500, model.vocab_size(), 1);
      std::vector<std::vector<int32_t>> prompts, expected;
      for (uint32_t i = 0; i < 6; ++i) {
        prompts.push_back(joined(shared, random_tokens(150, model.vocab_size(), 10 + i)));
        expected.push_back(alone(model, prompts.back(), request_of(prompts.back()).sampling, 8));
      }
      Engine engine(model, {});
      std::vector<Asked> asked;
      for (size_t i = 0; i < 4; ++i) asked.emplace_back(engine, request_of(prompts[i], 8));
      int64_t cached = 0;
      for (size_t i = 0; i < 4; ++i) {
        const Answer answer = asked[i].wait();
        EXPECT_EQ(answer.ids(), expected[i]) << name << " " << bits << ", request " << i;
        cached += answer.result.cached_tokens;
      }
      // The second may come too late for the first to keep its cache where they part, and then finds one before.
      EXPECT_GE(cached, 1000 + 2 * 1400) << name << " " << bits;
      for (const size_t i : {4, 5, 5}) {
        const Answer answer = Asked(engine, request_of(prompts[i], 8)).wait();
        EXPECT_EQ(answer.ids(), expected[i]) << name << " " << bits << ", request " << i;
        EXPECT_GE(answer.result.cached_tokens, 1400) << name << " " << bits;
        cached = answer.result.cached_tokens;
      }
      EXPECT_EQ(cached, static_cast<int64_t>(prompts[5].size()) - 1) << name << " " << bits << ", the same prompt";
      // A chat that goes on reads the answer again at most by its last token.
      const std::vector<int32_t> more = joined(joined(prompts[5], expected[5]), {1, 2, 3});
      EXPECT_GE(Asked(engine, request_of(more, 2)).wait().result.cached_tokens,
                static_cast<int64_t>(prompts[5].size() + expected[5].size()) - 1)
          << name << " " << bits;
    }
}

TEST(PrefixCache, AnEngineKeepsToItsMemory) {
  LanguageModel model = load_for_engine("llama");
  EngineOptions options;
  options.kv_memory = 65536 * 4 * 6;  // six pages
  Engine engine(model, options);
  std::vector<std::vector<int32_t>> prompts;
  for (uint32_t i = 0; i < 12; ++i) {
    prompts.push_back(random_tokens(200, model.vocab_size(), i));
    Asked(engine, request_of(prompts[i], 2)).wait();
    EXPECT_LE(engine.statistics().kv_bytes, options.kv_memory);
  }
  const auto cached = [&](size_t i) { return Asked(engine, request_of(prompts[i], 2)).wait().result.cached_tokens; };
  EXPECT_EQ(cached(11), 199);
  EXPECT_EQ(cached(0), 0);
  EXPECT_GT(engine.statistics().prefixes_evicted, 0);
}

TEST(PrefixCache, SurvivesARestart) {
  for (const char* name : {"llama", "qwen3_5"})
    for (const char* bits : {"fp16", "k4v3"}) {
      const TempFolder folder;
      LanguageModel model = load_for_engine(name, bits);
      const std::vector<int32_t> prompt = random_tokens(400, model.vocab_size(), 1);
      std::vector<std::string> messages;
      EngineOptions options;
      options.prompt_cache_dir = (folder / "prompts").string();
      options.on_message = [&](const std::string& line) { messages.push_back(line); };
      std::vector<int32_t> expected;
      {
        Engine engine(model, options);
        expected = Asked(engine, request_of(prompt)).wait().ids();
      }
      LanguageModel other = load_for_engine(name, bits);
      {
        Engine engine(other, options);
        const Answer answer = Asked(engine, request_of(prompt)).wait();
        EXPECT_EQ(answer.result.cached_tokens, 399) << name << " " << bits;
        EXPECT_EQ(answer.ids(), expected);
      }
      EXPECT_TRUE(messages.empty()) << messages.front();
      // Damaged files are said, and no more than that.
      size_t files = 0;
      for (const auto& file : std::filesystem::directory_iterator(folder / "prompts")) {
        std::filesystem::resize_file(file.path(), std::filesystem::file_size(file.path()) / 2);
        ++files;
      }
      EXPECT_GT(files, 0u);
      {
        Engine engine(model, options);
        const Answer answer = Asked(engine, request_of(prompt)).wait();
        EXPECT_EQ(answer.result.cached_tokens, 0);
        EXPECT_EQ(answer.ids(), expected);
      }
      ASSERT_EQ(messages.size(), files);
      EXPECT_HAS(messages.front(), "prompt cache: ");
      // Nor does a folder that goes away meanwhile; one that cannot be is told at once.
      messages.clear();
      options.prompt_cache_dir = (folder / "file" / "below").string();
      {
        Engine engine(model, options);
        EXPECT_EQ(Asked(engine, request_of(prompt)).wait().ids(), expected);
        std::filesystem::remove_all(folder / "file");
        std::ofstream(folder / "file") << "x";
      }
      EXPECT_FALSE(messages.empty());
      EXPECT_HAS(error_of([&] { Engine(model, options); }), "--prompt-cache-dir ");
      std::filesystem::remove(folder / "file");
    }
}

TEST(PrefixCache, FilesKeepToTheirMemory) {
  const TempFolder folder;
  LanguageModel model = load_for_engine("llama");
  EngineOptions options;
  options.prompt_cache_dir = folder.path().string();
  options.prompt_cache_bytes = 65536 * 4 * 2;  // two pages
  const auto ask = [&](Engine& engine, uint32_t seed) {
    return Asked(engine, request_of(random_tokens(100, model.vocab_size(), seed), 2)).wait().result.cached_tokens;
  };
  {
    Engine engine(model, options);
    for (uint32_t i = 0; i < 5; ++i) ask(engine, i);
    ask(engine, 1);  // twice
  }
  EXPECT_EQ(folder.file_count(), 2u);
  {
    Engine engine(model, options);
    EXPECT_EQ(ask(engine, 1), 99);
    EXPECT_EQ(ask(engine, 4), 99);
    EXPECT_EQ(ask(engine, 0), 0);
  }
  EXPECT_EQ(folder.file_count(), 2u);
}

}  // namespace
}  // namespace turboquant
