#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <utility>

#include "cli/chat_input.h"
#include "cli/chat_session.h"
#include "cli/command.h"
#include "cli/line_editor.h"
#include "cli/writer.h"
#include "core/interrupt.h"
#include "io/files.h"

namespace turboquant {
namespace {

struct ChatState {
  WriterOptions writer;
  std::string load, history;
};

// Where programs keep what they remember between runs (XDG Base Directory Specification); empty: nowhere.
std::string default_history() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  if (state != nullptr && *state == '/') return std::string(state) + "/turboquant/chat_history";
  return home != nullptr && *home == '/' ? std::string(home) + "/.local/state/turboquant/chat_history" : "";
}

double rate(double tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

// With a person at a terminal it goes on after errors and Ctrl-C; anything else is a script, which ends with them.
class Chat {
 public:
  Chat(Writer& writer, bool terminal) : writer_(writer), session_(writer.model, writer.options), terminal_(terminal) {}

  void greet(const std::string& model) const {
    note(fmt::format("{}, context of {} tokens. /help lists the commands, Ctrl-D leaves.", model,
                     writer_.model.max_context()));
  }

  void load(const std::string& path) {
    session_.load(path);
    note(fmt::format("Loaded {} messages from {}", session_.messages().size(), path));
  }
  void run(const LineSource& source, const std::function<void(const Input&)>& remember);
  static std::vector<std::string> command_names();

 private:
  struct Command {
    std::string_view name, argument, help;
    void (Chat::*run)(const std::string& argument);
  };
  static const std::array<Command, 10> kCommands;

  void note(const std::string& text) const;
  bool leave_after(const Input& input);
  void act(const Input& input);
  void command(const Input& input);
  void answer(const std::function<GenerateResult(const ChatSession::OnText&)>& writing);

  void help(const std::string& argument);
  void clear(const std::string& argument);
  void system(const std::string& argument);
  void save(const std::string& argument);
  void load_file(const std::string& argument) { load(needed(argument, "/load FILE")); }
  void again(const std::string& argument);
  void undo(const std::string& argument);
  void stats(const std::string& argument);
  void leave(const std::string& /*argument*/) { left_ = true; }
  static const std::string& needed(const std::string& argument, const std::string& usage) {
    if (argument.empty()) throw UsageError("give a file: " + usage);
    return argument;
  }

  Writer& writer_;
  ChatSession session_;
  bool terminal_;
  bool left_ = false, warned_ = false;
  std::optional<GenerateResult> last_;
};

const std::array<Chat::Command, 10> Chat::kCommands{{
    {"/help", "", "this list", &Chat::help},
    {"/new", "", "begin anew; the system message stays", &Chat::clear},
    {"/clear", "", "the same", &Chat::clear},
    {"/system", "TEXT", "what the model is to keep to; without TEXT: nothing", &Chat::system},
    {"/regen", "", "another answer to the last message", &Chat::again},
    {"/undo", "", "take the last message and its answer back", &Chat::undo},
    {"/save", "FILE", "write the conversation into a JSON file", &Chat::save},
    {"/load", "FILE", "go on with one that was saved", &Chat::load_file},
    {"/stats", "", "tokens, speed and memory of the last answer", &Chat::stats},
    {"/exit", "", "leave; so does Ctrl-D", &Chat::leave},
}};

std::vector<std::string> Chat::command_names() {
  std::vector<std::string> names;
  for (const Command& each : kCommands) names.emplace_back(each.name);
  return names;
}

// Beside the answers: dim where there is a terminal that may have colours (no-color.org).
void Chat::note(const std::string& text) const {
  if (!terminal_) return message(text);
  const char* plain = std::getenv("NO_COLOR");
  const bool dim = plain == nullptr || *plain == 0;
  fmt::print(stderr, "{}{}{}\n", dim ? "\x1b[2m" : "", text, dim ? "\x1b[0m" : "");
}

void Chat::run(const LineSource& source, const std::function<void(const Input&)>& remember) {
  while (!left_) {
    if (terminal_)
      clear_interrupt();
    else
      check_interrupt();
    const Input input = read_input(source);
    if (leave_after(input)) return;
    if (input.kind == Input::Kind::interrupted) continue;
    remember(input);
    try {
      act(input);
    } catch (const Interrupted&) {
      if (!terminal_) throw;
      note("Interrupted before there was an answer; the message is taken back.");
    } catch (const Error& error) {
      if (!terminal_) throw;
      fmt::print(stderr, "error: {}\n", error.what());
    }
  }
}

bool Chat::leave_after(const Input& input) {
  if (input.kind == Input::Kind::end) return true;
  const bool again = std::exchange(warned_, input.kind == Input::Kind::interrupted);
  if (warned_ && !again) note("Ctrl-C once more leaves, and so do Ctrl-D and /exit.");
  return warned_ && again;
}

void Chat::act(const Input& input) {
  if (input.kind == Input::Kind::command) return command(input);
  answer([&](const ChatSession::OnText& on_text) { return session_.send(input.text, on_text); });
}

void Chat::command(const Input& input) {
  for (const Command& each : kCommands)
    if (each.name == input.text) return (this->*each.run)(input.argument);
  throw UsageError("unknown command " + quote(input.text) + "; /help lists them, and // begins a message with a slash");
}

void Chat::answer(const std::function<GenerateResult(const ChatSession::OnText&)>& writing) {
  last_ = writing([this](std::string_view text) {
    const std::string shown = terminal_ ? for_terminal(text) : std::string(text);
    return std::fwrite(shown.data(), 1, shown.size(), stdout) == shown.size() && std::fflush(stdout) == 0;
  });
  fmt::print("\n");
  std::fflush(stdout);
  if (!terminal_) check_interrupt();
  if (last_->finish_reason == "cancelled") note("Stopped; what was written stays part of the conversation.");
  if (last_->finish_reason == "length")
    note(fmt::format("Cut after {} tokens: --max-tokens allows more, up to the context.", last_->tokens.size()));
}

void Chat::help(const std::string& /*argument*/) {
  for (const Command& each : kCommands) note(fmt::format("{:<8} {:<5} {}", each.name, each.argument, each.help));
  note("A \\ at the end of a line goes on in the next one; three quotes begin and end a text of many lines.");
  note("Ctrl-C stops an answer. Arrows go back to earlier lines, Tab completes a command.");
}

void Chat::clear(const std::string& /*argument*/) {
  session_.clear();
  note("A new conversation.");
}

void Chat::system(const std::string& argument) {
  session_.set_system(argument);
  note(argument.empty() ? "No system message." : "The system message is set; it counts from the next answer on.");
}

void Chat::save(const std::string& argument) {
  session_.save(needed(argument, "/save FILE"));
  note(fmt::format("Saved {} messages to {}", session_.messages().size(), argument));
}

void Chat::again(const std::string& /*argument*/) {
  answer([&](const ChatSession::OnText& on_text) { return session_.again(on_text); });
}

void Chat::undo(const std::string& /*argument*/) {
  note(session_.undo() ? "The last message is taken back." : "There is no message to take back.");
}

void Chat::stats(const std::string& /*argument*/) {
  if (!last_) return note("There is no answer yet.");
  const auto read = static_cast<double>(last_->prompt_tokens - last_->cached_tokens);
  const size_t written = last_->tokens.size();
  note(fmt::format("Prompt: {} tokens, {} of them remembered, {:.1f} tokens-per-sec", last_->prompt_tokens,
                   last_->cached_tokens, rate(read, last_->prefill_seconds)));
  note(fmt::format("Answer: {} tokens, {:.1f} tokens-per-sec, finished: {}", written,
                   rate(static_cast<double>(written) - 1, last_->decode_seconds), last_->finish_reason));
  if (last_->drafted_tokens > 0)
    note(fmt::format("Drafts: {} of {} tokens came true", last_->accepted_tokens, last_->drafted_tokens));
  note(fmt::format("Context: {} of {} tokens, KV cache {:.1f} MB", session_.cached_tokens(),
                   writer_.model.max_context(), static_cast<double>(session_.cache_bytes()) * 1e-6));
}

Line read_standard_input(std::string_view /*prompt*/) {
  std::string text;
  if (!std::getline(std::cin, text)) return {Line::Kind::end};
  if (text.ends_with('\r')) text.pop_back();
  return {Line::Kind::text, std::move(text)};
}

// As it is to be entered to mean the same again.
std::string as_typed(const Input& input) {
  if (input.kind == Input::Kind::message) return (input.text.starts_with('/') ? "/" : "") + input.text;
  return input.argument.empty() ? input.text : input.text + " " + input.argument;
}

void run(const ChatState& state) {
  const bool terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  Writer writer(state.writer);
  if (!writer.model.has_chat_template())
    throw Error(state.writer.model + ": the model has no chat template, so it cannot chat; use turboquant generate");
  Chat chat(writer, terminal);
  if (!state.load.empty()) chat.load(state.load);
  if (!terminal) {
    chat.run(read_standard_input, [](const Input&) {});
    return;
  }
  survive_interrupts();
  if (!state.history.empty()) {
    std::error_code ignored;  // then the history says that it cannot be written
    std::filesystem::create_directories(std::filesystem::path(state.history).parent_path(), ignored);
  }
  LineEditor editor(Chat::command_names(), state.history);
  chat.greet(state.writer.model);
  chat.run([&](std::string_view prompt) { return editor.read(prompt); },
           [&, told = false](const Input& input) mutable {
             try {
               editor.remember(as_typed(input));
             } catch (const Error& error) {
               if (!std::exchange(told, true)) fmt::print(stderr, "{}\n", error.what());
             }
           });
}

}  // namespace

void add_chat(CLI::App& app) {
  CLI::App* command = app.add_subcommand("chat", "Talk with a model in the terminal");
  auto state = std::make_shared<ChatState>();
  state->writer.generate.max_tokens = 1024;
  state->history = default_history();
  add_writer_options(*command, state->writer);
  command->add_option("--load", state->load, "Go on with a conversation that /save wrote");
  command->add_option("--history", state->history, "File of the lines that you have entered; '': none")
      ->capture_default_str();
  command->footer(
      "Enter sends. A \\ at the end of a line goes on in the next one; three quotes (\"\"\") begin and end a text of\n"
      "many lines; pasted lines stay together. Ctrl-C stops an answer; twice at an empty prompt it leaves, as do "
      "Ctrl-D\n"
      "and /exit. /help lists the commands: /new, /system, /regen, /undo, /save, /load, /stats.\n"
      "Each turn reads only what is new: the conversation stays in the KV cache.\n"
      "With input from a pipe, each line is a message, answers go to standard output, and an error ends it.\n"
      "Examples:\n  turboquant chat --model SmolLM2-4bit\n"
      "  turboquant chat --model SmolLM2-4bit --system \"Answer in one sentence.\" --kv-bits k4v3\n"
      "  printf 'Name a river.\\nWhere is it?\\n' | turboquant chat --model SmolLM2-4bit --temp 0 --quiet");
  command->callback([=] { run(*state); });
}

}  // namespace turboquant
