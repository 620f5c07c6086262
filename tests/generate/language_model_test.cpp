// Generating text with the micro model: what comes out, when it ends, what is refused.
#include "turboquant/language_model.h"

#include <gtest/gtest.h>

#include <set>

#include "generate/micro.h"
#include "io/error_of.h"
#include "turboquant/convert.h"

namespace turboquant {
namespace {

GenerateOptions greedy(int max_tokens = 24) {
  GenerateOptions options;
  options.temperature = 0;
  options.max_tokens = max_tokens;
  return options;
}

/// The most likely continuation, step by step with the model alone.
std::vector<int32_t> expected_greedy(const std::vector<int32_t>& prompt, int count, bool exact = false) {
  const auto checkpoint = open_checkpoint(kMicro);
  const auto model = test_model(*checkpoint, exact, DType::f16);
  std::vector<int32_t> all = prompt;
  for (int i = 0; i < count; ++i) {
    const std::vector<float> logits = one_pass(*model, all);
    const auto last = logits.end() - model->info().vocab_size;
    all.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
  }
  return {all.begin() + static_cast<std::ptrdiff_t>(prompt.size()), all.end()};
}

TEST(LanguageModel, WhatItIs) {
  const LanguageModel model = load_micro();
  EXPECT_EQ(model.vocab_size(), 512);
  EXPECT_EQ(model.max_context(), 4096);
  EXPECT_FALSE(model.has_chat_template());
  EXPECT_EQ(model.decode(model.encode(kPrompt)), kPrompt);
}

TEST(LanguageModel, GreedyTextIsThatOfTheModel) {
  LanguageModel model = load_micro();
  const GenerateResult result = model.generate(kPrompt, greedy());
  EXPECT_EQ(result.tokens, expected_greedy(model.encode(kPrompt), 24));
  EXPECT_EQ(result.text, model.decode(result.tokens));
  EXPECT_EQ(result.finish_reason, "length");
  EXPECT_EQ(result.prompt_tokens, static_cast<int64_t>(model.encode(kPrompt).size()));
  EXPECT_GT(result.prefill_seconds, 0);
  EXPECT_GT(result.decode_seconds, 0);
  EXPECT_EQ(result.cache_bytes, 4u * 256u * 2u * 2u * 32u * 2u);  // a page of 256 in each of 4 layers, fp16
}

// Prompts longer than the 512 tokens of one step give the same text as one pass does.
TEST(LanguageModel, LongPrompts) {
  LanguageModel model = load_micro();
  std::string prompt;
  while (model.encode(prompt).size() < 1100) prompt += kPrompt + ". ";
  EXPECT_EQ(model.generate(prompt, greedy(3)).tokens, expected_greedy(model.encode(prompt), 3));
}

TEST(LanguageModel, GreedyContinuationOfTheGoldenPrompt) {
  const Golden golden(kMicro);
  LoadOptions load;
  load.exact = true;
  load.kv.dtype = "float32";
  LanguageModel model = load_micro(kMicro, load);
  const std::string prompt = model.decode(golden.input_ids[0]);
  ASSERT_EQ(model.encode(prompt), golden.input_ids[0]);
  const Tensor expected = golden.file.tensor("greedy");
  EXPECT_EQ(model.generate(prompt, greedy()).tokens,
            std::vector<int32_t>(expected.data<int32_t>(), expected.data<int32_t>() + 24));
}

TEST(LanguageModel, CallbackGetsTheWholeText) {
  LanguageModel model = load_micro();
  GenerateOptions options;
  options.seed = 3;
  options.max_tokens = 100;
  std::string text;
  const auto whole_characters = [](std::string_view piece) {
    return piece.empty() ||
           ((piece.front() & 0xc0) != 0x80 && nlohmann::json(piece).dump().size() > 1);  // or it throws
  };
  const GenerateResult result = model.generate(kPrompt, options, [&](std::string_view piece) {
    EXPECT_FALSE(piece.empty());
    EXPECT_TRUE(whole_characters(piece));
    text += piece;
    return true;
  });
  EXPECT_EQ(text, result.text);
  EXPECT_EQ(text, model.decode(result.tokens));
}

TEST(LanguageModel, MaxTokens) {
  LanguageModel model = load_micro();
  const std::vector<int32_t> expected = model.generate(kPrompt, greedy()).tokens;
  for (const int count : {1, 2, 13}) {
    const GenerateResult result = model.generate(kPrompt, greedy(count));
    EXPECT_EQ(result.tokens, std::vector<int32_t>(expected.begin(), expected.begin() + count));
    EXPECT_EQ(result.finish_reason, "length");
  }
  for (const int count : {0, -1})
    EXPECT_HAS(error_of([&] { model.generate(kPrompt, greedy(count)); }),
               "--max-tokens " + std::to_string(count) + ": must be 1 or more");
}

TEST(LanguageModel, StopStrings) {
  LanguageModel model = load_micro();
  const std::string whole = model.generate(kPrompt, greedy()).text;
  // Every three bytes of the text that begin a character, wherever tokens meet.
  for (size_t at = 1; at + 3 < whole.size(); ++at) {
    const std::string stop = whole.substr(at, 3);
    if ((stop.front() & 0xc0) == 0x80) continue;
    GenerateOptions options = greedy();
    options.stop = {"never in it", stop};
    std::string text;
    const GenerateResult result = model.generate(kPrompt, options, [&](std::string_view piece) {
      text += piece;
      return true;
    });
    EXPECT_EQ(result.text, whole.substr(0, whole.find(stop)));
    EXPECT_EQ(text, result.text);
    EXPECT_LE(result.tokens.size(), 24u);
  }
  GenerateOptions options = greedy();
  options.stop = {whole.substr(whole.size() / 2 - 4, 4)};
  EXPECT_EQ(model.generate(kPrompt, options).finish_reason, "stop");
  EXPECT_LT(model.generate(kPrompt, options).tokens.size(), 24u);
  options.stop = {"never in it", ""};
  EXPECT_EQ(model.generate(kPrompt, options).text, whole);
  options.stop = {whole + "?"};  // held back to the end, then given out
  EXPECT_EQ(model.generate(kPrompt, options).text, whole);
}

TEST(LanguageModel, CallbackCancels) {
  LanguageModel model = load_micro();
  const std::string whole = model.generate(kPrompt, greedy()).text;
  for (const int wanted : {1, 2, 5}) {
    int calls = 0;
    std::string text;
    const GenerateResult result = model.generate(kPrompt, greedy(), [&](std::string_view piece) {
      text += piece;
      return ++calls < wanted;
    });
    EXPECT_EQ(calls, wanted);
    EXPECT_EQ(result.finish_reason, "cancelled");
    EXPECT_EQ(result.text, text);
    EXPECT_LT(text.size(), whole.size());
    EXPECT_TRUE(whole.starts_with(text));
  }
}

// A piece that is held back because a stop string may begin in it does not come after the callback said no.
TEST(LanguageModel, NothingComesAfterACancel) {
  LanguageModel model = load_micro();
  const std::string whole = model.generate(kPrompt, greedy()).text;
  for (size_t at = 1; at < 8; ++at) {
    if ((whole[at] & 0xc0) == 0x80) continue;
    GenerateOptions options = greedy();
    options.stop = {whole.substr(at, 1) + "never"};
    int calls = 0;
    const GenerateResult result = model.generate(kPrompt, options, [&](std::string_view) {
      ++calls;
      return false;
    });
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(result.finish_reason, "cancelled");
    EXPECT_TRUE(whole.starts_with(result.text));
  }
}

TEST(LanguageModel, SeedsRepeat) {
  LanguageModel model = load_micro();
  const auto tokens = [&](std::optional<uint64_t> seed) {
    GenerateOptions options;
    options.temperature = 1;
    options.max_tokens = 20;
    options.seed = seed;
    return model.generate(kPrompt, options).tokens;
  };
  EXPECT_EQ(tokens(5), tokens(5));
  EXPECT_NE(tokens(5), tokens(6));
  EXPECT_NE(tokens(std::nullopt), tokens(std::nullopt));
}

TEST(LanguageModel, RepetitionPenaltyCountsThePrompt) {
  LanguageModel model = load_micro();
  GenerateOptions options = greedy(40);
  options.repetition_penalty = 1000;  // nothing twice
  const std::vector<int32_t> prompt = model.encode(kPrompt), tokens = model.generate(kPrompt, options).tokens;
  const std::set<int32_t> distinct(tokens.begin(), tokens.end());
  EXPECT_EQ(distinct.size(), tokens.size());
  for (const int32_t token : prompt) EXPECT_FALSE(distinct.contains(token)) << token;
}

TEST(LanguageModel, EndTokens) {
  const std::vector<int32_t> whole = load_micro().generate(kPrompt, greedy()).tokens;
  const int32_t sixth = whole[5];
  const auto before = std::vector<int32_t>(whole.begin(), std::find(whole.begin(), whole.end(), sixth));
  const auto expect_end = [&](const MicroCopy& copy) {
    LanguageModel model = load_micro(copy.path());
    const GenerateResult result = model.generate(kPrompt, greedy());
    EXPECT_EQ(result.tokens, before);
    EXPECT_EQ(result.finish_reason, "stop");
    EXPECT_EQ(result.text, model.decode(before));
  };
  MicroCopy in_config;
  in_config.change("config.json", [&](auto& config) { config["eos_token_id"] = sixth; });
  expect_end(in_config);
  MicroCopy in_list;
  in_list.change("config.json", [&](auto& config) { config["eos_token_id"] = {511, sixth}; });
  expect_end(in_list);
  MicroCopy in_generation_config;
  in_generation_config.write("generation_config.json", nlohmann::json{{"eos_token_id", {0, sixth}}}.dump());
  expect_end(in_generation_config);
  MicroCopy damaged;  // no number, no JSON: the others still count
  damaged.change("config.json", [&](auto& config) { config["eos_token_id"] = {"x", nullptr, sixth, -1.5}; });
  damaged.write("generation_config.json", "[1, 2");
  expect_end(damaged);
}

TEST(LanguageModel, EndTokenAtOnce) {
  const int32_t first = load_micro().generate(kPrompt, greedy(1)).tokens[0];
  MicroCopy copy;
  copy.change("config.json", [&](auto& config) { config["eos_token_id"] = first; });
  const GenerateResult result = load_micro(copy.path()).generate(kPrompt, greedy());
  EXPECT_TRUE(result.tokens.empty());
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.finish_reason, "stop");
}

TEST(LanguageModel, ContextIsTheLimit) {
  MicroCopy copy;
  const std::vector<int32_t> prompt = load_micro().encode(kPrompt);
  const auto length = static_cast<int64_t>(prompt.size());
  const auto with_context = [&](int64_t context) {
    copy.change("config.json", [&](auto& config) { config["max_position_embeddings"] = context; });
    return load_micro(copy.path());
  };
  for (const int64_t context : {length - 1, length})
    EXPECT_HAS(error_of([&] { with_context(context).generate(kPrompt, greedy()); }),
               "the prompt has " + std::to_string(length) + " tokens; the model's context is " +
                   std::to_string(context) + ": shorten the prompt");
  const GenerateResult result = with_context(length + 7).generate(kPrompt, greedy());
  EXPECT_EQ(result.tokens, expected_greedy(prompt, 7));
  EXPECT_EQ(result.finish_reason, "length");
}

TEST(LanguageModel, EmptyPrompts) {
  LanguageModel model = load_micro();
  EXPECT_HAS(error_of([&] { model.generate("", greedy()); }), "the prompt is empty");
  MicroCopy copy;  // a tokenizer that leaves nothing of white space
  copy.change("tokenizer.json", [](auto& json) {
    json["normalizer"] = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  });
  LanguageModel stripping = load_micro(copy.path());
  EXPECT_HAS(error_of([&] { stripping.generate("  \n ", greedy()); }), "the prompt has no tokens");
  EXPECT_EQ(stripping.generate(" a ", greedy(1)).prompt_tokens, 1);
}

TEST(LanguageModel, ChatTemplate) {
  MicroCopy copy;
  copy.write("chat_template.jinja",
             "{% for m in messages %}<|user|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
             "{% if add_generation_prompt %}<|assistant|>{% endif %}");
  LanguageModel model = load_micro(copy.path());
  EXPECT_TRUE(model.has_chat_template());
  const auto same_as_raw = [&](const GenerateOptions& options, const std::string& rendered) {
    GenerateOptions raw = options;
    raw.raw = true;
    const GenerateResult a = model.generate("Hello", options), b = model.generate(rendered, raw);
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.prompt_tokens, b.prompt_tokens);
  };
  same_as_raw(greedy(), "<|user|>user: Hello\n<|assistant|>");
  GenerateOptions with_system = greedy();
  with_system.system = "Be brief.";
  same_as_raw(with_system, "<|user|>system: Be brief.\n<|user|>user: Hello\n<|assistant|>");
  EXPECT_NE(model.generate("Hello", greedy()).prompt_tokens, static_cast<int64_t>(model.encode("Hello").size()));
}

TEST(LanguageModel, ChatsGoOnFromTheCache) {
  std::vector<ChatMessage> chat{{"system", "Be brief."}, {"user", "Hello there"}};
  EXPECT_HAS(error_of([&] { load_micro().generate(chat, greedy()); }), "no chat template");
  MicroCopy copy;
  copy.write("chat_template.jinja",
             "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
             "{% if add_generation_prompt %}[assistant] {% endif %}");
  LanguageModel model = load_micro(copy.path());
  KvCache cache = model.make_cache();
  GenerateOptions kept = greedy();
  kept.cache = &cache;
  const GenerateResult first = model.generate(chat, kept);
  GenerateOptions raw = greedy();
  raw.raw = true;
  EXPECT_EQ(first.tokens, model.generate("[system] Be brief.\n[user] Hello there\n[assistant] ", raw).tokens);
  chat.push_back({"assistant", "An answer"});
  chat.push_back({"user", "More"});
  const GenerateResult second = model.generate(chat, kept);
  EXPECT_GE(second.cached_tokens, first.prompt_tokens - 1);
  EXPECT_EQ(second.tokens, model.generate(chat, greedy()).tokens);
}

TEST(LanguageModel, ConvertedModelsGenerate) {
  const TempFolder folder;
  for (const char* format : {"tcq16", "original"}) {
    ConvertOptions options;
    options.model = kMicro.string();
    options.output = (folder / format).string();
    options.format = format;
    options.bits = 4;
    options.threads = 2;
    convert(options);
    LoadOptions one_thread;
    one_thread.threads = 1;
    LanguageModel model = load_micro(folder / format),
                  other = LanguageModel::load((folder / format).string(), one_thread);
    const GenerateResult result = model.generate(kPrompt, greedy());
    EXPECT_EQ(result.tokens.size(), 24u);
    EXPECT_EQ(result.tokens, other.generate(kPrompt, greedy()).tokens);
    EXPECT_EQ(result.text, model.decode(result.tokens));
  }
}

TEST(LanguageModel, QjlMayBeLeftOut) {
  const TempFolder folder;
  ConvertOptions convert_options;
  convert_options.model = kMicro.string();
  convert_options.output = (folder / "qjl").string();
  convert_options.format = "mlx";
  convert_options.bits = 2;
  convert_options.use_qjl = true;
  convert_options.threads = 2;
  convert(convert_options);
  std::vector<std::string> messages;
  LoadOptions load;
  load.threads = 2;
  load.on_message = [&](const std::string& line) { messages.push_back(line); };
  const GenerateResult with = LanguageModel::load(convert_options.output, load).generate(kPrompt, greedy());
  EXPECT_TRUE(messages.empty());
  load.qjl = false;
  const GenerateResult without = LanguageModel::load(convert_options.output, load).generate(kPrompt, greedy());
  EXPECT_EQ(messages, std::vector<std::string>{"Left out the QJL residuals of 28 layers"});
  EXPECT_NE(with.tokens, without.tokens);
  LanguageModel::load(kMicro.string(), load);
  EXPECT_EQ(messages.back(), "The model has no QJL residuals to leave out");
}

TEST(LanguageModel, OneGenerationDoesNotChangeTheNext) {
  LanguageModel model = load_micro();
  const GenerateResult first = model.generate(kPrompt, greedy());
  model.generate("Something else entirely", greedy());
  LanguageModel moved = std::move(model);
  EXPECT_EQ(moved.generate(kPrompt, greedy()).text, first.text);
}

TEST(LanguageModel, WhatCannotBeLoaded) {
  LoadOptions options;
  options.kv.dtype = "int8";
  EXPECT_HAS(error_of([&] { load_micro(kMicro, options); }), "--cache-dtype int8: use float16 or float32");
  EXPECT_HAS(error_of([&] { load_micro(kMicro / "nothing"); }), "nothing: no such file or folder");
  MicroCopy copy;
  copy.remove("tokenizer.json");
  LanguageModel silent = load_micro(copy.path());
  EXPECT_HAS(error_of([&] { silent.generate(kPrompt, greedy()); }),
             "no tokenizer.json; copy it from the original model's folder");
  copy.write("tokenizer.json", "{}");
  LanguageModel broken = load_micro(copy.path());
  EXPECT_HAS(error_of([&] { broken.encode("x"); }), "tokenizer.json");
}

}  // namespace
}  // namespace turboquant
