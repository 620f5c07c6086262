#include "io/config.h"

#include <cmath>

namespace turboquant {
namespace {

[[noreturn]] void fail(const std::string& where, const char* key, const std::string& why) {
  throw Error(where + ": config.json: '" + key + "' " + why);
}

// The value as JSON, for a message: short, on one line, and readable whatever its bytes are.
std::string shown(const nlohmann::json& value) {
  constexpr size_t kLongest = 60;
  const std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

bool absent(const nlohmann::json& config, const char* key) { return !config.contains(key) || config.at(key).is_null(); }

}  // namespace

int64_t config_integer(const nlohmann::json& config, const std::string& where, const char* key, int64_t least) {
  constexpr int64_t kLargest = int64_t{1} << 31;  // of any dimension: products of two cannot overflow
  if (absent(config, key)) fail(where, key, "is missing");
  if (!config.at(key).is_number_integer()) fail(where, key, "must be a whole number, is " + shown(config.at(key)));
  const auto value = config.at(key).get<int64_t>();
  if (value < least || value > kLargest) fail(where, key, "is out of range: " + shown(config.at(key)));
  return value;
}

int64_t config_integer_or(const nlohmann::json& config, const std::string& where, const char* key, int64_t otherwise,
                          int64_t least) {
  return absent(config, key) ? otherwise : config_integer(config, where, key, least);
}

double config_positive(const nlohmann::json& config, const std::string& where, const char* key,
                       std::optional<double> otherwise) {
  if (absent(config, key)) {
    if (otherwise) return *otherwise;
    fail(where, key, "is missing");
  }
  if (!config.at(key).is_number()) fail(where, key, "must be a number, is " + shown(config.at(key)));
  const auto value = config.at(key).get<double>();
  if (!(value > 0) || !std::isfinite(value)) fail(where, key, "must be above 0, is " + shown(config.at(key)));
  return value;
}

bool config_bool_or(const nlohmann::json& config, const std::string& where, const char* key, bool otherwise) {
  if (absent(config, key)) return otherwise;
  if (!config.at(key).is_boolean()) fail(where, key, "must be true or false, is " + shown(config.at(key)));
  return config.at(key).get<bool>();
}

std::string config_string_or(const nlohmann::json& config, const std::string& where, const char* key,
                             const std::string& otherwise) {
  if (absent(config, key)) return otherwise;
  if (!config.at(key).is_string()) fail(where, key, "must be a string, is " + shown(config.at(key)));
  return config.at(key).get<std::string>();
}

nlohmann::json config_object(const nlohmann::json& config, const std::string& where, const char* key) {
  if (absent(config, key)) return nlohmann::json::object();
  if (!config.at(key).is_object()) fail(where, key, "must be an object, is " + shown(config.at(key)));
  return config.at(key);
}

nlohmann::json text_config(const nlohmann::json& config, const std::string& where) {
  nlohmann::json text = config;
  text.erase("text_config");
  const nlohmann::json nested = config_object(config, where, "text_config");
  for (const auto& [key, value] : nested.items())
    if (!value.is_null()) text[key] = value;
  return text;
}

}  // namespace turboquant
