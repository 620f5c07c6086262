// Reading config.json with errors that name the key.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "turboquant/error.h"

namespace turboquant {

/// A whole number of at least `least`; without a default the key must be there.
int64_t config_integer(const nlohmann::json& config, const std::string& where, const char* key, int64_t least = 1);
int64_t config_integer_or(const nlohmann::json& config, const std::string& where, const char* key, int64_t otherwise,
                          int64_t least = 1);
float config_float_or(const nlohmann::json& config, const std::string& where, const char* key, float otherwise);
bool config_bool_or(const nlohmann::json& config, const std::string& where, const char* key, bool otherwise);

}  // namespace turboquant
