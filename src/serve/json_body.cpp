#include "serve/json_body.h"

#include <fmt/format.h>

#include <algorithm>

#include "serve/api_error.h"

namespace turboquant {

int json_depth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

Json parse_body(std::string_view text) {
  if (json_depth(text) > kMostJsonDepth)
    throw bad_request(fmt::format("the body's JSON is nested more than {} deep", kMostJsonDepth));
  Json body;
  try {
    body = Json::parse(text);
  } catch (const Json::parse_error& error) {
    // Its own text quotes the body.
    throw bad_request(fmt::format("the body is not valid JSON, or not UTF-8, at byte {}", error.byte));
  } catch (const Json::exception&) {
    throw bad_request("the body has a number that is out of range");
  }
  if (!body.is_object()) throw bad_request("the body is not a JSON object");
  return body;
}

std::string to_text(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

Fields::Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) {
    std::string name = path_.empty() ? "the body" : path_.substr(0, path_.size() - 1);
    throw bad_request(name + " is not an object", name);
  }
}

const Json* Fields::find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

const Json* Fields::typed(const char* name, bool right, const char* type) const {
  if (!right) throw bad_request(fmt::format("{} is not {}", path_of(name), type), path_of(name));
  return find(name);
}

std::optional<double> Fields::number(const char* name, double least, double most) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const double number = typed(name, value->is_number(), "a number")->get<double>();
  if (!(number >= least && number <= most))
    throw bad_request(fmt::format("{} must be {} to {}", path_of(name), least, most), path_of(name));
  return number;
}

std::optional<int64_t> Fields::integer(const char* name, int64_t least, int64_t most) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  typed(name, value->is_number_integer(), "an integer");
  const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX};
  const int64_t number = huge ? INT64_MAX : value->get<int64_t>();
  if (huge || number < least || number > most)
    throw bad_request(fmt::format("{} must be {} to {}", path_of(name), least, most), path_of(name));
  return number;
}

std::optional<bool> Fields::boolean(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return typed(name, value->is_boolean(), "true or false")->get<bool>();
}

std::optional<std::string> Fields::text(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return typed(name, value->is_string(), "a string")->get<std::string>();
}

const Json* Fields::object(const char* name) const {
  const Json* value = find(name);
  return value == nullptr ? nullptr : typed(name, value->is_object(), "an object");
}

const Json* Fields::array(const char* name) const {
  const Json* value = find(name);
  return value == nullptr ? nullptr : typed(name, value->is_array(), "an array");
}

std::vector<std::string> Fields::texts(const char* name, size_t most) const {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  typed(name, value->is_array(), "a string or an array of strings");
  if (value->size() > most)
    throw bad_request(fmt::format("{} has {} entries; at most {} are taken", path_of(name), value->size(), most),
                      path_of(name));
  std::vector<std::string> result;
  for (const Json& entry : *value) {
    typed(name, entry.is_string(), "a string or an array of strings");
    result.push_back(entry.get<std::string>());
  }
  return result;
}

}  // namespace turboquant
