#include "text/chat.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "turboquant/error.h"

namespace turboquant {
namespace {

using Json = nlohmann::json;

// The object in file `name`; an empty one if there is no such file.
Json read_object(const FileLookup& lookup, std::string_view name) {
  const std::optional<std::string> text = lookup(name);
  if (!text) return Json::object();
  Json value = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) {
    throw Error(fmt::format("{}: not a JSON object; the file is damaged, fetch it again", name));
  }
  return value;
}

// The member chat_template of file `name`: a string, or a list of {"name": ..., "template": ...}.
std::optional<std::string> template_in(const Json& file, std::string_view name) {
  const auto found = file.find("chat_template");
  if (found == file.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const Json& entry : *found) {
      if (!entry.is_object()) continue;
      const auto title = entry.find("name");
      const auto source = entry.find("template");
      if (title != entry.end() && source != entry.end() && *title == "default" && source->is_string()) {
        return source->get<std::string>();
      }
    }
    throw Error(
        fmt::format("{}: none of the chat templates is called \"default\"; put the one to use into "
                    "chat_template.jinja",
                    name));
  }
  throw Error(fmt::format("{}: chat_template is neither a string nor a list of templates", name));
}

// A token is written as a string or as an object with the string as "content"; empty if there is none.
std::string token_in(const Json& file, const char* key) {
  auto found = file.find(key);
  if (found == file.end()) return {};
  if (found->is_object()) {
    const auto content = found->find("content");
    return content != found->end() && content->is_string() ? content->get<std::string>() : std::string();
  }
  return found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

std::optional<ChatTemplate> chat_template_of(const FileLookup& lookup) {
  const Json config = read_object(lookup, "tokenizer_config.json");
  std::string_view origin = "chat_template.jinja";
  std::optional<std::string> source = lookup(origin);
  if (!source) {
    origin = "chat_template.json";
    source = template_in(read_object(lookup, origin), origin);
  }
  if (!source) {
    origin = "tokenizer_config.json";
    source = template_in(config, origin);
  }
  if (!source) return std::nullopt;

  const Json tokens = read_object(lookup, "special_tokens_map.json");
  std::array<std::string, 2> special;
  for (size_t i = 0; const char* key : {"bos_token", "eos_token"}) {
    // A null in tokenizer_config.json says that the model has no such token.
    special[i++] = token_in(config.contains(key) ? config : tokens, key);
  }
  try {
    return ChatTemplate(std::move(*source), std::move(special[0]), std::move(special[1]));
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", origin, error.what()));
  }
}

}  // namespace turboquant
