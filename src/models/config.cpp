#include "models/config.h"

namespace turboquant {
namespace {

[[noreturn]] void fail(const std::string& where, const char* key, const std::string& why) {
  throw Error(where + ": config.json: '" + key + "' " + why);
}

bool absent(const nlohmann::json& config, const char* key) { return !config.contains(key) || config.at(key).is_null(); }

}  // namespace

int64_t config_integer(const nlohmann::json& config, const std::string& where, const char* key, int64_t least) {
  constexpr int64_t kLargest = int64_t{1} << 31;  // of any dimension: products of two cannot overflow
  if (absent(config, key)) fail(where, key, "is missing");
  if (!config.at(key).is_number_integer()) fail(where, key, "must be a whole number, is " + config.at(key).dump());
  const auto value = config.at(key).get<int64_t>();
  if (value < least || value > kLargest) fail(where, key, "is out of range: " + std::to_string(value));
  return value;
}

int64_t config_integer_or(const nlohmann::json& config, const std::string& where, const char* key, int64_t otherwise,
                          int64_t least) {
  return absent(config, key) ? otherwise : config_integer(config, where, key, least);
}

float config_float_or(const nlohmann::json& config, const std::string& where, const char* key, float otherwise) {
  if (absent(config, key)) return otherwise;
  if (!config.at(key).is_number()) fail(where, key, "must be a number, is " + config.at(key).dump());
  return config.at(key).get<float>();
}

bool config_bool_or(const nlohmann::json& config, const std::string& where, const char* key, bool otherwise) {
  if (absent(config, key)) return otherwise;
  if (!config.at(key).is_boolean()) fail(where, key, "must be true or false, is " + config.at(key).dump());
  return config.at(key).get<bool>();
}

}  // namespace turboquant
