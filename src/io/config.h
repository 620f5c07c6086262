// Reading config.json with errors that name the file and the key. A key that is null counts as missing.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "turboquant/error.h"

namespace turboquant {

/// A whole number of at least `least`; without a default the key must be there.
int64_t config_integer(const nlohmann::json& config, const std::string& where, const char* key, int64_t least = 1);
int64_t config_integer_or(const nlohmann::json& config, const std::string& where, const char* key, int64_t otherwise,
                          int64_t least = 1);
/// A finite number above 0. Without a default the key must be there.
double config_positive(const nlohmann::json& config, const std::string& where, const char* key,
                       std::optional<double> otherwise = std::nullopt);
bool config_bool_or(const nlohmann::json& config, const std::string& where, const char* key, bool otherwise);
std::string config_string_or(const nlohmann::json& config, const std::string& where, const char* key,
                             const std::string& otherwise);
/// The object under a key; an empty one if there is none.
nlohmann::json config_object(const nlohmann::json& config, const std::string& where, const char* key);

/// The settings of the language model: what is nested under text_config, over the outer keys.
nlohmann::json text_config(const nlohmann::json& config, const std::string& where);

}  // namespace turboquant
