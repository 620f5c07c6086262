#include "hub/repository.h"

#include <fmt/format.h>

#include <algorithm>

#include "hub/cache.h"
#include "io/files.h"

namespace turboquant {
namespace {

constexpr uint64_t kMaxListing = kMaxJsonBytes;
constexpr size_t kMaxName = 250;  // longer ones are no file names either

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= 96 && text.front() != '-' && text.front() != '.' && text.back() != '.' &&
         text.find("--") == text.npos && text.find("..") == text.npos &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
                  c == '.';
         });
}

// A relative path that stays below where it starts.
bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > kMaxName) return false;
  if (std::any_of(path.begin(), path.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; }))
    return false;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

// Becomes a file name in the cache.
std::string clean_etag(std::string_view etag) {
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  std::string result(etag);
  std::erase(result, '"');
  const bool good = !result.empty() && result.size() <= kMaxName - 16 && result.front() != '.' &&
                    std::all_of(result.begin(), result.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
                    });
  return good ? result : "";
}

}  // namespace

std::optional<HubName> parse_hub_name(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == text.npos) return std::nullopt;
  const size_t end = std::min(text.find('/', slash + 1), text.size());
  if (!is_word(text.substr(0, slash)) || !is_word(text.substr(slash + 1, end - slash - 1))) return std::nullopt;
  HubName name{std::string(text.substr(0, end)), ""};
  if (end < text.size()) {
    name.file = text.substr(end + 1);
    if (!is_safe_path(name.file) || !name.file.ends_with(".gguf")) return std::nullopt;
  }
  return name;
}

bool Listing::holds(std::string_view file) const { return std::find(files.begin(), files.end(), file) != files.end(); }

Repository::Repository(const HubSettings& settings, std::string name, std::string revision)
    : settings_(settings), client_(settings), name_(std::move(name)), revision_(std::move(revision)) {
  if (revision_.empty()) revision_ = "main";
  if (!is_safe_path(revision_)) throw UsageError("--revision " + quote(revision_) + ": not a branch, tag or commit");
}

Listing Repository::list() const {
  HttpAnswer answer = client_.get(settings_.endpoint + "/api/models/" + name_ + "/revision/" + url_encode(revision_));
  check(answer, "");
  const std::string where = answer.url();
  const nlohmann::json json = parse_json(answer.text(kMaxListing), where);
  Listing listing;
  try {
    listing.commit = json.at("sha").get<std::string>();
    for (const nlohmann::json& sibling : json.at("siblings")) {
      std::string file = sibling.at("rfilename").get<std::string>();
      if (is_safe_path(file)) listing.files.push_back(std::move(file));
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(where + ": not an answer of a model hub: " + json_problem(error) + "; check HF_ENDPOINT");
  }
  if (!is_commit(listing.commit)) throw Error(where + ": names no commit; check HF_ENDPOINT");
  return listing;
}

std::string Repository::url(const std::string& commit, const std::string& file) const {
  return settings_.endpoint + "/" + name_ + "/resolve/" + commit + "/" + url_encode(file, "/");
}

RemoteFile Repository::describe(const std::string& commit, const std::string& file) const {
  RemoteFile remote{file, url(commit, file), "", 0};
  const HttpAnswer answer = client_.head(remote.url);
  const bool elsewhere = answer.status() >= 300 && answer.status() < 400;
  if (!elsewhere) check(answer, file);
  const std::string& linked = answer.header("x-linked-etag");
  remote.etag = clean_etag(linked.empty() ? answer.header("etag") : linked);
  std::optional<uint64_t> size = answer.number("x-linked-size");
  // A redirect has a body of its own.
  if (!size && !elsewhere) size = answer.number("content-length");
  if (remote.etag.empty() || !size || *size >> 62 != 0)
    throw Error(
        fmt::format("{}/{}: {} does not tell its size and ETag; check HF_ENDPOINT", name_, file, settings_.endpoint));
  remote.size = *size;
  return remote;
}

void Repository::check(const HttpAnswer& answer, const std::string& file) const {
  const int status = answer.status();
  if (status >= 200 && status < 300) return;
  const std::string& code = answer.header("x-error-code");
  const std::string what = file.empty() ? name_ : name_ + "/" + file;
  const std::string page = settings_.endpoint + "/" + name_;
  const bool has_token = !settings_.token.empty();
  if (status == 429) throw NetworkError(settings_.endpoint + " gets too many requests (429): try again later");
  if (status >= 500)
    throw NetworkError(fmt::format("{} fails ({}) for {}: try again later", settings_.endpoint, status, what));
  if (code == "GatedRepo" || status == 403)
    throw Error(fmt::format("{}: access is restricted ({}): accept its licence at {}, {}", what, status, page,
                            has_token ? "with the account that the token in HF_TOKEN belongs to"
                                      : "then set HF_TOKEN to a token of your account"));
  if (code == "RevisionNotFound")
    throw Error(fmt::format("{}: no revision {} at {}; --revision takes a branch, a tag or a commit", name_,
                            quote(revision_), settings_.endpoint));
  if (status == 401)  // also what the hub says of repositories that do not exist
    throw Error(fmt::format("{}: no such file or folder here, and at {} it does not exist or is private (401): {}",
                            what, settings_.endpoint,
                            has_token ? "check the name, and the token in HF_TOKEN"
                                      : "check the name, or set HF_TOKEN to a token that may read it"));
  if (status == 404 && file.empty())
    throw Error(fmt::format("{}: no such file or folder here, and no such repository{} at {} (404)", name_,
                            revision_ == "main" ? "" : " or revision " + quote(revision_), settings_.endpoint));
  if (status == 404) throw Error(fmt::format("{}: no such file at {} (404)", what, settings_.endpoint));
  throw Error(fmt::format("{}: {} answers with status {}", what, settings_.endpoint, status));
}

}  // namespace turboquant
