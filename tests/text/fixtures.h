// Files of tests/data/text, and what an Error says.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "text/tokenizer.h"
#include "turboquant/error.h"

namespace turboquant {

inline std::string read_fixture(const std::string& name) {
  std::ifstream file(std::string(TURBOQUANT_TEST_DATA) + "/text/" + name, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw std::runtime_error("cannot read fixture " + name);
  return text.str();
}

inline const nlohmann::ordered_json& tokenizer_golden() {
  static const auto golden = nlohmann::ordered_json::parse(read_fixture("tokenizer_golden.json"));
  return golden;
}

inline const nlohmann::ordered_json& chat_golden() {
  static const auto golden = nlohmann::ordered_json::parse(read_fixture("chat_golden.json"));
  return golden;
}

/// "smollm2", or the small tokenizer with the decoder that tokenizer_golden.json gives for `name`.
inline Tokenizer golden_tokenizer(const std::string& name) {
  if (name == "smollm2") return Tokenizer(read_fixture("smollm2_tokenizer.json"), "smollm2_tokenizer.json");
  std::string text = read_fixture("fallback_tokenizer.json");
  const auto& golden = tokenizer_golden().at(name);
  if (golden.contains("decoder")) {
    auto json = nlohmann::ordered_json::parse(text);
    json["decoder"] = golden["decoder"];
    text = json.dump();
  }
  return Tokenizer(text, name);
}

inline bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

/// Errors are one line.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

}  // namespace turboquant
