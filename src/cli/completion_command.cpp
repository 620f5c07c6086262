#include <fmt/format.h>

#include "cli/command.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

std::string options_of(const CLI::App& command) {
  std::string words;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) words += " --" + name;
  return words;
}

std::string commands_of(const CLI::App& app) {
  std::string words;
  for (const CLI::App* command : app.get_subcommands({})) words += " " + command->get_name();
  return words;
}

std::string bash(const CLI::App& app) {
  std::string text =
      "# bash completion of turboquant: source <(turboquant completion bash)\n_turboquant() {\n"
      "  local word=\"${COMP_WORDS[COMP_CWORD]}\" words=\"\"\n  case \"${COMP_WORDS[1]}\" in\n";
  for (const CLI::App* command : app.get_subcommands({}))
    text += fmt::format("    {}) words=\"{}\" ;;\n", command->get_name(), options_of(*command));
  text += fmt::format("  esac\n  [ \"$COMP_CWORD\" -eq 1 ] && words=\"{}{}\"\n", commands_of(app), options_of(app));
  text +=
      "  if [ \"$COMP_CWORD\" -eq 1 ] || [[ \"$word\" == -* ]]; then\n"
      "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
      "  else\n    mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n  fi\n}\n"
      "complete -o filenames -F _turboquant turboquant\n";
  return text;
}

std::string fish(const CLI::App& app) {
  std::string text = "# fish completion of turboquant: turboquant completion fish | source\n";
  for (const CLI::App* command : app.get_subcommands({})) {
    text += fmt::format("complete -c turboquant -n __fish_use_subcommand -f -a {} -d '{}'\n", command->get_name(),
                        command->get_description());
    for (const CLI::Option* option : command->get_options())
      for (const std::string& name : option->get_lnames())
        text += fmt::format("complete -c turboquant -n '__fish_seen_subcommand_from {}' -l {}\n", command->get_name(),
                            name);
  }
  return text;
}

}  // namespace

void add_completion(CLI::App& app) {
  CLI::App* command = app.add_subcommand("completion", "Print a completion script for bash, zsh or fish");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "bash, zsh or fish")->required();
  command->footer("Example:\n  source <(turboquant completion bash)");
  command->callback([&app, shell] {
    if (*shell == "bash")
      fmt::print("{}", bash(app));
    else if (*shell == "zsh")
      fmt::print("autoload -U +X bashcompinit && bashcompinit\n{}", bash(app));
    else if (*shell == "fish")
      fmt::print("{}", fish(app));
    else
      throw UsageError("completion " + *shell + ": use bash, zsh or fish");
  });
}

}  // namespace turboquant
