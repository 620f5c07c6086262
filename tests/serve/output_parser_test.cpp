#include "serve/output_parser.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "serve/tool_calls.h"

namespace turboquant {
namespace {

struct Whole {
  std::string content, reasoning;
  std::map<int, ToolCall> calls;
};

void add(Whole& whole, const OutputPart& part) {
  whole.content += part.content;
  whole.reasoning += part.reasoning;
  for (const ToolCallPart& call : part.calls) {
    whole.calls[call.index].name += call.name;
    whole.calls[call.index].arguments += call.arguments;
  }
}

// In pieces of `size` bytes.
Whole parse(OutputParser& parser, const std::string& text, size_t size) {
  Whole whole;
  for (size_t i = 0; i < text.size(); i += size) add(whole, parser.add(std::string_view(text).substr(i, size)));
  add(whole, parser.finish());
  return whole;
}

using Maker = std::function<std::unique_ptr<OutputParser>()>;

// The same however it is cut.
Whole parse_every_way(const Maker& make, const std::string& text) {
  const Whole whole = parse(*make(), text, text.size() + 1);
  for (size_t size = 1; size <= text.size(); ++size) {
    const Whole cut = parse(*make(), text, size);
    EXPECT_EQ(cut.content, whole.content) << size;
    EXPECT_EQ(cut.reasoning, whole.reasoning) << size;
    EXPECT_EQ(cut.calls.size(), whole.calls.size()) << size;
    for (const auto& [index, call] : whole.calls) {
      const auto found = cut.calls.find(index);
      if (found == cut.calls.end()) continue;
      EXPECT_EQ(found->second.name, call.name) << size;
      EXPECT_EQ(found->second.arguments, call.arguments) << size;
    }
  }
  return whole;
}

Maker tagged(const TaggedOptions& options) {
  return [options] { return make_tagged_parser(options); };
}

TEST(TaggedParser, ThoughtsComeFirstAndAreNoText) {
  const Whole whole = parse_every_way(tagged({.thinks = true}), "\n<think>\nLet me see.\n</think>\n\nFour. <think>");
  EXPECT_EQ(whole.reasoning, "Let me see.\n");
  EXPECT_EQ(whole.content, "Four. <think>");
}

TEST(TaggedParser, ThePromptMayHaveOpenedThem) {
  const Whole whole = parse_every_way(tagged({.thinks = true, .thinking = true}), "a < b</thin k></think>\nYes");
  EXPECT_EQ(whole.reasoning, "a < b</thin k>");
  EXPECT_EQ(whole.content, "Yes");
}

TEST(TaggedParser, ThoughtsWithoutAnEndAreThoughts) {
  const Whole whole = parse_every_way(tagged({.thinks = true}), "<think>for ever </th");
  EXPECT_EQ(whole.reasoning, "for ever </th");
  EXPECT_EQ(whole.content, "");
}

TEST(TaggedParser, TextAloneStaysAsItIs) {
  const Whole whole = parse_every_way(tagged({.thinks = true, .tools = true}), "1 < 2 <too [TOOL \n");
  EXPECT_EQ(whole.content, "1 < 2 <too [TOOL \n");
}

TEST(TaggedParser, CallsOfTools) {
  const Whole whole = parse_every_way(tagged({.tools = true}),
                                      "I look.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": [1, 2]}}\n"
                                      "</tool_call>\n<tool_call>{\"name\":\"b\",\"arguments\":{}}</tool_call>");
  EXPECT_EQ(whole.content, "I look.");
  ASSERT_EQ(whole.calls.size(), 2U);
  EXPECT_EQ(whole.calls.at(0).name, "a");
  EXPECT_EQ(whole.calls.at(0).arguments, R"({"x":[1,2]})");
  EXPECT_EQ(whole.calls.at(1).name, "b");
}

TEST(TaggedParser, CallsInTags) {
  const Whole whole = parse_every_way(tagged({.tools = true}),
                                      "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n"
                                      "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>");
  ASSERT_EQ(whole.calls.size(), 1U);
  EXPECT_EQ(whole.calls.at(0).name, "weather");
  EXPECT_EQ(whole.calls.at(0).arguments, R"({"city":"Rome","days":3})");
}

TEST(TaggedParser, ACallThatCannotBeReadIsText) {
  const std::string text = "<tool_call>{\"name\": </tool_call>";
  const Whole whole = parse_every_way(tagged({.tools = true}), text);
  EXPECT_EQ(whole.content, text);
  EXPECT_TRUE(whole.calls.empty());
}

TEST(TaggedParser, MistralsCalls) {
  const Whole whole =
      parse_every_way(tagged({.tools = true}), R"([TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g",)"
                                               R"( "arguments": {}}])");
  ASSERT_EQ(whole.calls.size(), 2U);
  EXPECT_EQ(whole.calls.at(0).arguments, R"({"a":1})");
  EXPECT_EQ(parse_every_way(tagged({.tools = true}), R"([TOOL_CALLS]f[ARGS]{"a": 1})").calls.at(0).name, "f");
}

TEST(TaggedParser, BareCalls) {
  const TaggedOptions options{.tools = true, .bare_call = true};
  const Whole whole = parse_every_way(tagged(options), R"( {"name": "f", "parameters": {"a": "b"}})");
  ASSERT_EQ(whole.calls.size(), 1U);
  EXPECT_EQ(whole.calls.at(0).arguments, R"({"a":"b"})");
  EXPECT_EQ(parse_every_way(tagged(options), R"({"answer": 4})").content, R"({"answer": 4})");
}

TEST(HarmonyParser, Channels) {
  const Whole whole = parse_every_way([] { return make_harmony_parser(); },
                                      "<|channel|>analysis<|message|>Think < hard.<|end|><|start|>assistant"
                                      "<|channel|>final<|message|>Four.<|return|>");
  EXPECT_EQ(whole.reasoning, "Think < hard.");
  EXPECT_EQ(whole.content, "Four.");
}

TEST(HarmonyParser, CallsOfFunctions) {
  const Whole whole = parse_every_way(
      [] { return make_harmony_parser(); },
      "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
      "<|constrain|>json<|message|>{\"city\":\"Rome\"}<|call|><|start|>assistant to=functions.time<|channel|>commentary"
      "<|message|>{}");
  EXPECT_EQ(whole.content, "");
  ASSERT_EQ(whole.calls.size(), 2U);
  EXPECT_EQ(whole.calls.at(0).name, "weather");
  EXPECT_EQ(whole.calls.at(0).arguments, R"({"city":"Rome"})");
  EXPECT_EQ(whole.calls.at(1).name, "time");
  EXPECT_EQ(whole.calls.at(1).arguments, "{}");
}

TEST(HarmonyParser, AnAnswerThatThePromptHasBegun) {
  const Whole whole =
      parse_every_way([] { return make_harmony_parser("<|channel|>final<|message|>"); }, R"({"a": 1}<|return|>)");
  EXPECT_EQ(whole.content, R"({"a": 1})");
}

TEST(ForcedParser, TheWholeAnswerIsACall) {
  const Whole whole =
      parse_every_way([] { return make_forced_parser(); }, R"({"name": "f", "arguments": {"a": {"b": "}"}}})");
  ASSERT_EQ(whole.calls.size(), 1U);
  EXPECT_EQ(whole.calls.at(0).name, "f");
  EXPECT_EQ(whole.calls.at(0).arguments, R"({"a": {"b": "}"}})");
}

TEST(ForcedParser, OrItsArguments) {
  const Whole whole = parse_every_way([] { return make_forced_parser("f"); }, R"({"a": 1})");
  EXPECT_EQ(whole.calls.at(0).name, "f");
  EXPECT_EQ(whole.calls.at(0).arguments, R"({"a": 1})");
}

}  // namespace
}  // namespace turboquant
