// One repository of the hub, at one revision: what it holds, and why it cannot be had.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hub/http.h"

namespace turboquant {

/// "org/name", or "org/name/path/file.gguf" for one file of a repository.
struct HubName {
  std::string repository;
  std::string file;  // empty: the whole model
};
/// Nothing if the text cannot be such a name.
std::optional<HubName> parse_hub_name(std::string_view text);

struct Listing {
  std::string commit;
  std::vector<std::string> files;  // paths in the repository
  bool holds(std::string_view file) const;
};

/// A file as the hub describes it. The etag is the SHA-256 of a large (LFS) file, and git's SHA-1 of a small one.
struct RemoteFile {
  std::string name, url, etag;
  uint64_t size = 0;
};

class Repository {
 public:
  /// `revision`: branch, tag or commit; UsageError if it cannot be one.
  Repository(const HubSettings& settings, std::string name, std::string revision);

  const std::string& name() const { return name_; }
  const std::string& revision() const { return revision_; }
  const HttpClient& client() const { return client_; }

  Listing list() const;
  RemoteFile describe(const std::string& commit, const std::string& file) const;
  std::string url(const std::string& commit, const std::string& file) const;
  /// Throws what a status other than 2xx means: NetworkError where waiting may help, else Error. `file`: what was asked
  /// for, empty for the repository.
  void check(const HttpAnswer& answer, const std::string& file) const;

 private:
  HubSettings settings_;
  HttpClient client_;
  std::string name_, revision_;
};

}  // namespace turboquant
