// Finds the chat template of a model in the files beside it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace turboquant {

/// Gives the text of a file of the model by its name ("tokenizer_config.json"), or nothing if there is no such file.
using FileLookup = std::function<std::optional<std::string>(std::string_view)>;

/// The template in chat_template.jinja, else in chat_template.json, else in tokenizer_config.json (of several, the one
/// that is called "default"), with the begin and end tokens of tokenizer_config.json, else of special_tokens_map.json.
/// Nothing if the model has no template. Throws Error, naming the file, if a file or the template cannot be parsed.
std::optional<ChatTemplate> chat_template_of(const FileLookup& lookup);

}  // namespace turboquant
