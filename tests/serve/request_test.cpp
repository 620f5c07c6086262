#include <gtest/gtest.h>

#include <new>

#include "generate/engine.h"
#include "serve/answers.h"
#include "serve/api_error.h"
#include "serve/chat_format.h"
#include "serve/chat_request.h"
#include "serve/http_server.h"
#include "serve/json_body.h"
#include "serve/metrics.h"
#include "serve/parameters.h"

namespace turboquant {
namespace {

constexpr int64_t kVocabulary = 1000;

// The error that reading a chat gives: status, message, param; status 0 if there is none.
ApiError error_of(const std::string& body) {
  try {
    const Json json = parse_body(body);
    parse_chat_request(Fields(json), kVocabulary);
  } catch (const ApiError& error) {
    return error;
  }
  return {0, "none"};
}

ChatRequest chat(const std::string& members) {
  const Json json = parse_body(R"({"messages": [{"role": "user", "content": "Hello"}])" + members + "}");
  return parse_chat_request(Fields(json), kVocabulary);
}

TEST(JsonBody, DepthIsCountedOutsideOfStrings) {
  EXPECT_EQ(json_depth("1"), 0);
  EXPECT_EQ(json_depth(R"({"a": [1, {"b": 2}], "c": []})"), 3);
  EXPECT_EQ(json_depth(R"(["[[[\"[[", "\\"])"), 1);
}

TEST(JsonBody, WhatIsNoObjectIsRefused) {
  const std::string deep(200'000, '[');
  for (const std::string& body : {std::string(""), std::string("nul"), std::string("[]"), std::string("{\"a\": 1e999}"),
                                  std::string("{\"a\": \"\xff\"}"), std::string("{\"a\": 1} x"), deep}) {
    try {
      parse_body(body);
      FAIL() << body.substr(0, 40);
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400);
    }
  }
}

TEST(JsonBody, ErrorsDoNotQuoteTheBody) {
  try {
    parse_body(R"({"secret_word" "x"})");
    FAIL();
  } catch (const ApiError& error) {
    EXPECT_EQ(std::string(error.what()).find("secret"), std::string::npos);
  }
}

TEST(ChatRequest, WrongMembersAreNamed) {
  const std::string start = R"({"messages": [{"role": "user", "content": "x"}], )";
  const std::vector<std::pair<std::string, std::string>> cases{
      {R"("temperature": "hot"})", "temperature"},
      {R"("temperature": -1})", "temperature"},
      {R"("max_tokens": 1.5})", "max_tokens"},
      {R"("max_tokens": 99999999999999999999})", "max_tokens"},
      {R"("max_tokens": 18446744073709551615})", "max_tokens"},
      {R"("n": 0})", "n"},
      {R"("stop": [1]})", "stop"},
      {R"("stop": {"a": 1}})", "stop"},
      {R"("logit_bias": {"5000": 1}})", "logit_bias"},
      {R"("logit_bias": {"x": 1}})", "logit_bias"},
      {R"("top_logprobs": 3})", "top_logprobs"},
      {R"("logprobs": true, "top_logprobs": 21})", "top_logprobs"},
      {R"("stream": 1})", "stream"},
      {R"("tools": [{"type": "function"}]})", "tools[0].type"},
      {R"("tools": [{"type": "function", "function": {"name": "a b"}}]})", "tools[0].function.name"},
      {R"("tool_choice": "required"})", "tool_choice"},
      {R"("tool_choice": {"type": "function", "function": {"name": "f"}}})", "tool_choice"},
      {R"("response_format": {"type": "xml"}})", "response_format.type"},
      {R"("response_format": {"type": "json_schema"}})", "response_format.json_schema.schema"}};
  for (const auto& [members, param] : cases) {
    const ApiError error = error_of(start + members);
    EXPECT_EQ(error.status, 400) << members;
    EXPECT_EQ(error.param, param) << members;
  }
  EXPECT_EQ(error_of(R"({"messages": []})").param, "messages");
  EXPECT_EQ(error_of(R"({"messages": [{"role": "king", "content": "x"}]})").param, "messages[0].role");
  EXPECT_EQ(error_of(R"({"messages": [{"role": "user"}]})").param, "messages[0].content");
  EXPECT_EQ(error_of(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})").param,
            "messages[0].content[0].type");
  EXPECT_EQ(error_of(R"({"messages": ["x"]})").param, "messages[0]");
}

TEST(ChatRequest, Parameters) {
  const Parameters parameters = chat(R"(, "temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "seed": -3,
      "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "max_completion_tokens": 9, "n": 2,
      "stop": ["a", "", "b"], "logprobs": true, "top_logprobs": 4, "logit_bias": {"17": -100}, "stream": true, "ignore_eos": true,
      "stream_options": {"include_usage": true}, "user": null)")
                                    .parameters;
  EXPECT_EQ(parameters.sampling.temperature, 0);
  EXPECT_EQ(parameters.sampling.top_p, 0.5F);
  EXPECT_EQ(parameters.sampling.top_k, 7);
  EXPECT_EQ(parameters.sampling.repetition_penalty, 1.1F);
  EXPECT_EQ(parameters.sampling.seed, static_cast<uint64_t>(-3));
  ASSERT_EQ(parameters.sampling.logit_bias.size(), 1U);
  EXPECT_EQ(parameters.sampling.logit_bias[0], (std::pair<int32_t, float>(17, -100)));
  EXPECT_EQ(parameters.max_tokens, 9);
  EXPECT_EQ(parameters.choices, 2);
  EXPECT_EQ(parameters.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(parameters.logprobs, 4);
  EXPECT_TRUE(parameters.stream && parameters.include_usage && parameters.ignore_end);
}

TEST(ChatRequest, PartsBecomeTextAndArgumentsObjects) {
  const Json body = parse_body(R"({"messages": [
      {"role": "developer", "content": "Be short."},
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [
          {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
      {"role": "tool", "tool_call_id": "1", "content": "2"}]})");
  const ChatRequest request = parse_chat_request(Fields(body), kVocabulary);
  EXPECT_EQ(request.messages[0]["role"], "system");
  EXPECT_EQ(request.messages[1]["content"], "ab");
  EXPECT_EQ(request.messages[2]["content"], "");
  EXPECT_EQ(request.messages[2]["tool_calls"][0]["function"]["arguments"]["x"], 1);
}

TEST(ChatRequest, ToolChoice) {
  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "f"}},
                                           {"type": "function", "function": {"name": "g"}}])";
  EXPECT_EQ(chat(tools).tool_use, ChatRequest::ToolUse::automatic);
  EXPECT_EQ(chat(tools + R"(, "tool_choice": "none")").tools.size(), 0U);
  EXPECT_EQ(chat(tools + R"(, "tool_choice": "required")").tool_use, ChatRequest::ToolUse::required);
  const ChatRequest named = chat(tools + R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})");
  EXPECT_EQ(named.tool_use, ChatRequest::ToolUse::required);
  ASSERT_EQ(named.tools.size(), 1U);
  EXPECT_EQ(named.tools[0]["function"]["name"], "g");
}

TEST(ChatRequest, SchemaOfACallTakesDefinitionsToItsRoot) {
  const Json tools = Json::parse(R"([{"function": {"name": "f", "parameters": {
      "type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "integer"}}}}}])");
  EXPECT_EQ(schema_of_call(tools)["$defs"]["x"]["type"], "integer");
}

TEST(ChatFormat, OfTemplates) {
  EXPECT_EQ(chat_format_of("<|start|>assistant<|channel|>final").tools, ToolStyle::harmony);
  EXPECT_EQ(chat_format_of("{{ '[TOOL_CALLS]' }}").tools, ToolStyle::mistral);
  EXPECT_EQ(chat_format_of("{% if tools %}ipython").tools, ToolStyle::bare);
  const ChatFormat qwen = chat_format_of("{% if tools %}<tool_call></tool_call>{% endif %}<think>");
  EXPECT_EQ(qwen.tools, ToolStyle::tagged);
  EXPECT_TRUE(qwen.thinks && qwen.knows_tools);
  EXPECT_FALSE(chat_format_of("{{ messages }}").knows_tools);
}

TEST(ApiErrors, OfExceptions) {
  const auto error = [](const auto& exception) { return api_error_of(std::make_exception_ptr(exception)); };
  EXPECT_EQ(error(QueueFull("full", 7)).status, 429);
  EXPECT_EQ(error(QueueFull("full", 7)).retry_after_seconds, 7);
  EXPECT_EQ(error(UsageError("wrong")).status, 400);
  EXPECT_EQ(error(Error("/home/secret")).status, 500);
  EXPECT_EQ(std::string(error(Error("/home/secret")).what()).find("secret"), std::string::npos);
  EXPECT_EQ(error(std::bad_alloc()).status, 500);
  const Json body = Json::parse(error_body(ApiError(404, "no \"such\" model", "model", "model_not_found")));
  EXPECT_EQ(body["error"]["message"], "no \"such\" model");
  EXPECT_EQ(body["error"]["type"], "invalid_request_error");
  EXPECT_EQ(body["error"]["code"], "model_not_found");
  EXPECT_TRUE(Json::parse(error_body(401, "x"))["error"]["param"].is_null());
}

TEST(Answers, Events) { EXPECT_EQ(sse_event("{}"), "data: {}\n\n"); }

TEST(Answers, LogprobsOfHalfACharacter) {
  const Json entry = chat_logprob({"\xe2\x82", -0.5F, {{"a", -1}}});
  EXPECT_EQ(entry["bytes"], Json::parse("[226, 130]"));
  EXPECT_EQ(entry["token"], "\xef\xbf\xbd");
  EXPECT_EQ(entry["top_logprobs"][0]["token"], "a");
}

TEST(Keys, Compare) {
  EXPECT_TRUE(equal_in_constant_time("abc", "abc"));
  for (const char* wrong : {"", "ab", "abcd", "abd", "bbc", "abcabc"})
    EXPECT_FALSE(equal_in_constant_time(wrong, "abc"));
  EXPECT_FALSE(equal_in_constant_time("a", ""));
}

TEST(MetricsText, BucketsAreCumulative) {
  Metrics metrics;
  metrics.add_request("/v1/models", 200, 0.0005);
  metrics.add_request("/v1/models", 200, 0.003);
  metrics.add_request("/v1/models", 404, 1e6);
  const std::string text = metrics.print({}, 3);
  EXPECT_NE(text.find("turboquant_http_requests_total{path=\"/v1/models\",status=\"200\"} 2\n"), std::string::npos);
  EXPECT_NE(text.find("turboquant_request_seconds_bucket{le=\"0.001\"} 1\n"), std::string::npos);
  EXPECT_NE(text.find("turboquant_request_seconds_bucket{le=\"0.004\"} 2\n"), std::string::npos);
  EXPECT_NE(text.find("turboquant_request_seconds_bucket{le=\"+Inf\"} 3\n"), std::string::npos);
  EXPECT_NE(text.find("turboquant_http_connections 3\n"), std::string::npos);
}

}  // namespace
}  // namespace turboquant
