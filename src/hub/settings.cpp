#include "hub/settings.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "io/files.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

constexpr int kMaxPatience = 3600;
constexpr uint64_t kMaxTokenFile = 64 << 10;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A path from the environment, with ~ for the home folder as Python takes it.
std::filesystem::path path_variable(const char* name, const std::filesystem::path& otherwise) {
  const std::string value = variable(name);
  if (value.empty()) return otherwise;
  if (value == "~" || value.starts_with("~/"))
    return std::filesystem::path(variable("HOME")) / value.substr(1).erase(0, 1);
  return value;
}

bool is_set(const char* name) {
  std::string value = variable(name);
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string trimmed(std::string text) {
  constexpr const char* kSpace = " \t\r\n";
  text.erase(0, std::min(text.find_first_not_of(kSpace), text.size()));
  text.erase(text.find_last_not_of(kSpace) + 1);
  return text;
}

std::string token(const std::filesystem::path& home) {
  std::string source = "HF_TOKEN", value = trimmed(variable("HF_TOKEN"));
  if (value.empty() && !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
    const std::filesystem::path file = path_variable("HF_TOKEN_PATH", home / "token");
    std::error_code error;
    if (std::filesystem::is_regular_file(file, error)) {
      source = file.string();
      value = trimmed(read_text(file, kMaxTokenFile));
    }
  }
  // It becomes a line of the request. The message must not repeat it.
  if (std::any_of(value.begin(), value.end(), [](unsigned char c) { return c <= 0x20 || c >= 0x7f; }))
    throw Error(source + ": not a token: it holds spaces or characters that are not ASCII");
  return value;
}

}  // namespace

HubSettings hub_settings() {
  HubSettings settings;
  settings.endpoint = variable("HF_ENDPOINT");
  if (settings.endpoint.empty()) settings.endpoint = "https://huggingface.co";
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  if (!settings.endpoint.starts_with("https://") && !settings.endpoint.starts_with("http://"))
    throw Error("HF_ENDPOINT=" + quote(settings.endpoint) + ": must begin with https:// or http://");
  const auto caches = path_variable("XDG_CACHE_HOME", std::filesystem::path(variable("HOME")) / ".cache");
  const auto home = path_variable("HF_HOME", caches / "huggingface");
  settings.cache = path_variable("HF_HUB_CACHE", home / "hub");
  settings.token = token(home);
  settings.offline = is_set("HF_HUB_OFFLINE");
  if (const std::string text = variable("HF_HUB_DOWNLOAD_TIMEOUT"); !text.empty()) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), settings.patience_s);
    if (error != std::errc() || end != text.data() + text.size() || settings.patience_s < 1 ||
        settings.patience_s > kMaxPatience)
      throw Error("HF_HUB_DOWNLOAD_TIMEOUT=" + quote(text) + ": must be a number of seconds from 1 to " +
                  std::to_string(kMaxPatience));
  }
  return settings;
}

}  // namespace turboquant
