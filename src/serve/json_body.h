// The body of a request: JSON that is checked before it is used.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace turboquant {

/// Keeps the order of members: tools and schemas go on as they came.
using Json = nlohmann::ordered_json;

inline constexpr int kMostJsonDepth = 64;

/// How deep arrays and objects are nested; what stands in strings does not count.
int json_depth(std::string_view text);

/// An object of valid JSON, valid UTF-8, nested at most kMostJsonDepth deep. ApiError 400.
Json parse_body(std::string_view text);

/// JSON as text, on one line.
std::string to_text(const Json& value);

/// Reads members with their types; null counts as missing. What is wrong becomes an ApiError that names the member.
class Fields {
 public:
  /// `path`: in errors, in front of a member's name ("messages[0].").
  explicit Fields(const Json& object, std::string path = "");

  const Json* find(const char* name) const;
  std::optional<double> number(const char* name, double least, double most) const;
  std::optional<int64_t> integer(const char* name, int64_t least, int64_t most) const;
  std::optional<bool> boolean(const char* name) const;
  std::optional<std::string> text(const char* name) const;
  const Json* object(const char* name) const;
  const Json* array(const char* name) const;
  /// A string, or an array of `most` strings at most.
  std::vector<std::string> texts(const char* name, size_t most) const;

  std::string path_of(const std::string& name) const { return path_ + name; }

 private:
  const Json* typed(const char* name, bool right, const char* type) const;

  const Json& object_;
  std::string path_;
};

}  // namespace turboquant
