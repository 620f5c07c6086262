// What counts as one message, what as a command, and what of a model's text reaches a terminal.
#include "cli/chat_input.h"

#include <gtest/gtest.h>

#include <deque>

namespace turboquant {
namespace {

/// Lines as they are typed; "^C" is Ctrl-C.
LineSource typed(std::deque<std::string> lines) {
  return [lines = std::move(lines)](std::string_view) mutable -> Line {
    if (lines.empty()) return {Line::Kind::end};
    std::string line = lines.front();
    lines.pop_front();
    if (line == "^C") return {Line::Kind::interrupted};
    return {Line::Kind::text, line};
  };
}

std::string message(const std::deque<std::string>& lines) {
  const Input input = read_input(typed(lines));
  EXPECT_EQ(input.kind, Input::Kind::message);
  return input.text;
}

TEST(ChatInput, MessagesOfOneLine) {
  EXPECT_EQ(message({"Hello there "}), "Hello there");
  EXPECT_EQ(message({"", "  ", "Hello"}), "Hello");
  EXPECT_EQ(message({"//etc/hosts"}), "/etc/hosts");
}

TEST(ChatInput, MessagesOfManyLines) {
  EXPECT_EQ(message({"one\\", "two\\", "three", "four"}), "one\ntwo\nthree");
  EXPECT_EQ(message({"\"\"\"one", "", "  two\\", "three\"\"\"", "four"}), "one\n\n  two\\\nthree");
  EXPECT_EQ(message({"\"\"\"", "/new", "\"\"\""}), "/new");
  EXPECT_EQ(message({"pasted\nin one"}), "pasted\nin one");
  EXPECT_EQ(message({"\"\"\"\"\"\"", "next"}), "next");
}

TEST(ChatInput, TheEndOfAllInputEndsAMessage) {
  EXPECT_EQ(message({"one\\"}), "one");
  EXPECT_EQ(message({"\"\"\"one", "two"}), "one\ntwo");
  EXPECT_EQ(read_input(typed({})).kind, Input::Kind::end);
  EXPECT_EQ(read_input(typed({"", " "})).kind, Input::Kind::end);
}

TEST(ChatInput, CtrlCDropsWhatWasBegun) {
  EXPECT_EQ(message({"one\\", "^C", "two"}), "two");
  EXPECT_EQ(message({"\"\"\"one", "^C", "two"}), "two");
  EXPECT_EQ(read_input(typed({"^C", "one"})).kind, Input::Kind::interrupted);
}

TEST(ChatInput, Commands) {
  const Input input = read_input(typed({" /system  Be brief, please. "}));
  EXPECT_EQ(input.kind, Input::Kind::command);
  EXPECT_EQ(input.text, "/system");
  EXPECT_EQ(input.argument, "Be brief, please.");
  EXPECT_EQ(read_input(typed({"/new"})).text, "/new");
  EXPECT_EQ(read_input(typed({"/new"})).argument, "");
}

TEST(ChatInput, TerminalsGetNoControlCharacters) {
  EXPECT_EQ(for_terminal("a\tb\n\x1b[2Jc\a\r\x7f"), "a\tb\n[2Jc");
  EXPECT_EQ(for_terminal("caf\xC3\xA9 \xC2\xA9 \xC2\x9B"
                         "31m"),
            "caf\xC3\xA9 \xC2\xA9 31m");
  EXPECT_EQ(for_terminal("\xC2"), "\xC2");
}

}  // namespace
}  // namespace turboquant
