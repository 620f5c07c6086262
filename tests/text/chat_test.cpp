#include "text/chat.h"

#include <gtest/gtest.h>

#include <ctime>
#include <functional>
#include <map>
#include <sstream>

#include "fixtures.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

const std::vector<ChatMessage> kHello{{"user", "Hello"}};

std::string render(const std::string& source, const std::string& variables = "{}") {
  return ChatTemplate(source, "<s>", "</s>").render_json("[]", variables, false);
}

// Errors are one line: white space in a message is single spaces.
std::string one_line(const std::string& text) {
  std::istringstream words(text);
  std::string line, word;
  while (words >> word) line += (line.empty() ? "" : " ") + word;
  return line;
}

TEST(ChatTemplate, RendersAsTransformers) {
  const auto& golden = chat_golden();
  ASSERT_EQ(golden["templates"].size(), 6u);
  ASSERT_GE(golden["cases"].size(), 200u);
  for (const auto& entry : golden["cases"]) {
    const std::string name = entry["template"], chat = entry["chat"];
    const ChatTemplate chat_template(golden["templates"][name], entry["bos"], entry["eos"]);
    const std::string where = name + " " + chat + " " + entry["variables"].dump();
    std::string text, error;
    try {
      text = chat_template.render_json(golden["chats"][chat].dump(),
                                       golden["variables"][entry["variables"].get<size_t>()].dump(), entry["prompt"]);
    } catch (const Error& e) {
      error = e.what();
    }
    if (entry.contains("text")) {
      EXPECT_EQ(error, "") << where;
      EXPECT_EQ(text, entry["text"].get<std::string>()) << where;
    } else if (const std::string raised = entry["error"]; raised.empty()) {
      EXPECT_NE(error, "") << where << ": transformers fails, here: " << text;
    } else {
      EXPECT_EQ(error, "chat template: " + one_line(raised)) << where;
    }
  }
}

TEST(ChatTemplate, JinjaAsTransformersUnderstandsIt) {
  const auto& golden = chat_golden();
  const std::string variables = golden["snippet_variables"].dump();
  ASSERT_GE(golden["snippets"].size(), 50u);
  for (const auto& entry : golden["snippets"]) {
    const std::string source = entry["source"];
    std::string text;
    try {
      text = render(source, variables);
    } catch (const Error& error) {
      text = error.what();
    }
    EXPECT_EQ(text, entry["text"].get<std::string>()) << source;
  }
}

TEST(ChatTemplate, RendersMessages) {
  const ChatTemplate smollm2(chat_golden()["templates"]["smollm2"], "<|im_start|>", "<|im_end|>");
  EXPECT_EQ(smollm2.render(std::vector<ChatMessage>{{"system", "S"}, {"user", "\"quoted\" 😀\n"}}),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n\"quoted\" 😀\n<|im_end|>\n<|im_start|>assistant\n");
  const ChatTemplate copy = smollm2;
  EXPECT_EQ(copy.render(kHello, false), smollm2.render(kHello, false));
}

TEST(ChatTemplate, StrftimeNow) {
  const std::time_t now = std::time(nullptr);
  char expected[64];
  std::strftime(expected, sizeof expected, "%d %b %Y", std::localtime(&now));
  const std::string text = render("{{ strftime_now('%d %b %Y') }}");
  std::strftime(expected + 32, 32, "%d %b %Y", std::localtime(&now));
  EXPECT_EQ(text, expected);
  EXPECT_EQ(render("{{ strftime_now('100%%') }}"), "100%");
}

TEST(ChatTemplate, Errors) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{% if %}", "chat template: syntax error"},
      {"a\nb\n{{ x", "line 3"},
      {"{% for m in messages %}", "chat template: syntax error"},
      {"{{ x | no_such_filter }}", "no_such_filter"},
      {"{{ raise_exception('Only user roles: ' ~ 1) }}", "chat template: Only user roles: 1"},
      {"{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{% for i in [1] %}{{ m() }}{% endfor %}",
       "chat template: deep"},
      {"{{ missing.attribute }}", "chat template: undefined value"},
      {"{{ missing.call() }}", "chat template: "},
      {"{{ missing | tojson }}", "not JSON serializable"},
      {"{% for a in range(90000) %}{% for b in range(90000) %}{{ a }}{% endfor %}{% endfor %}", "does not end"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "chat template: "},
      {"{{ 'x' * 1000000000000 }}", "chat template: "},
      {"{% include 'other' %}", "chat template: "},
      {std::string(100000, '('), ""},
      {"{{ " + std::string(100000, '(') + " }}", "chat template: "},
      {"\xff", "chat template: the template is not valid UTF-8 at byte 0"},
  };
  for (const auto& [source, part] : cases) {
    const std::string message = error_of([&, &text = source] { render(text); });
    EXPECT_NE(message.find(part), std::string::npos) << source.substr(0, 80) << "\ngot: " << message;
    EXPECT_EQ(message == "no error", part.empty()) << source.substr(0, 80);
  }
  const ChatTemplate any("{{ messages[0].content }}", "", "");
  EXPECT_NE(error_of([&] { any.render_json("[", "{}"); }).find("the chat is not JSON"), std::string::npos);
  EXPECT_NE(error_of([&] { any.render_json("{}", "{}"); }).find("not a JSON array"), std::string::npos);
  EXPECT_NE(error_of([&] { any.render_json("[1]", "{}"); }).find("not a JSON object"), std::string::npos);
  EXPECT_NE(error_of([&] { any.render_json("[]", "[]"); }).find("not a JSON object"), std::string::npos);
  EXPECT_NE(error_of([&] {
              any.render(std::vector<ChatMessage>{{"user", "\xff"}});
            }).find("not valid UTF-8"),
            std::string::npos);
}

// chat_template_of

FileLookup files(std::map<std::string, std::string, std::less<>> texts) {
  return [texts = std::move(texts)](std::string_view name) -> std::optional<std::string> {
    const auto found = texts.find(name);
    return found == texts.end() ? std::nullopt : std::optional(found->second);
  };
}

TEST(ChatTemplateOf, FindsTheTemplate) {
  EXPECT_FALSE(chat_template_of(files({})));
  EXPECT_FALSE(chat_template_of(files({{"tokenizer_config.json", R"({"chat_template": null, "bos_token": "<s>"})"}})));

  const std::string config = R"({"chat_template": "config {{ bos_token }}{{ eos_token }}", "bos_token": "<s>",
                                 "eos_token": {"content": "</s>", "lstrip": false}})";
  EXPECT_EQ(chat_template_of(files({{"tokenizer_config.json", config}}))->render(kHello), "config <s></s>");

  const std::string json = R"({"chat_template": "json {{ eos_token }}"})";
  EXPECT_EQ(chat_template_of(files({{"tokenizer_config.json", config}, {"chat_template.json", json}}))->render(kHello),
            "json </s>");
  const auto found = chat_template_of(
      files({{"tokenizer_config.json", config}, {"chat_template.json", json}, {"chat_template.jinja", "file"}}));
  EXPECT_EQ(found->render(kHello), "file");
  EXPECT_EQ(found->eos_token(), "</s>");

  const std::string named = R"({"chat_template": [{"name": "tool_use", "template": "tools"},
                                {"name": "default", "template": "default {{ bos_token }}|{{ eos_token }}"}],
                                "eos_token": null})";
  EXPECT_EQ(
      chat_template_of(files({{"tokenizer_config.json", named},
                              {"special_tokens_map.json", R"({"bos_token": {"content": "[B]"}, "eos_token": "[E]"})"}}))
          ->render(kHello),
      "default [B]|");
}

TEST(ChatTemplateOf, NamesTheFileThatIsWrong) {
  const std::vector<std::pair<std::map<std::string, std::string, std::less<>>, std::string>> cases = {
      {{{"tokenizer_config.json", "{"}}, "tokenizer_config.json: not a JSON object"},
      {{{"tokenizer_config.json", "[]"}}, "tokenizer_config.json: not a JSON object"},
      {{{"tokenizer_config.json", R"({"chat_template": 5})"}}, "tokenizer_config.json: chat_template is neither"},
      {{{"tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}, 5]})"}},
       "tokenizer_config.json: none of the chat templates is called \"default\""},
      {{{"chat_template.json", "nonsense"}}, "chat_template.json: not a JSON object"},
      {{{"chat_template.jinja", "{% if %}"}}, "chat_template.jinja: chat template: syntax error"},
      {{{"chat_template.jinja", "x"}, {"special_tokens_map.json", "5"}}, "special_tokens_map.json: not a JSON object"},
  };
  for (const auto& [texts, part] : cases) {
    const std::string message = error_of([&, &given = texts] { chat_template_of(files(given)); });
    EXPECT_NE(message.find(part), std::string::npos) << "got: " << message;
  }
}

}  // namespace
}  // namespace turboquant
