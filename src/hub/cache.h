// The cache folder that huggingface_hub and this project share.
//
//   models--ORG--NAME/blobs/ETAG                    content, once for all commits; ETAG.incomplete while it comes
//   models--ORG--NAME/snapshots/COMMIT/FILE         link to its blob
//   models--ORG--NAME/refs/REVISION                 the commit that a branch or tag pointed to
//   .locks/models--ORG--NAME/ETAG.lock              held (flock) by who writes a blob
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace turboquant {

/// A full commit hash: 40 hexadecimal digits in lower case.
bool is_commit(std::string_view text);

/// The folder of one repository. All text that becomes part of a path is checked where it comes in (repository.h).
class RepositoryCache {
 public:
  RepositoryCache(const std::filesystem::path& cache, const std::string& repository);

  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  std::filesystem::path blob(const std::string& etag) const { return folder_ / "blobs" / etag; }
  std::filesystem::path incomplete(const std::string& etag) const { return folder_ / "blobs" / (etag + ".incomplete"); }
  std::filesystem::path lock(const std::string& etag) const { return locks_ / (etag + ".lock"); }

  /// The commit that `revision` (itself a commit, or a branch or tag) had when it was last downloaded; else empty.
  std::string commit_of(const std::string& revision) const;
  void write_ref(const std::string& revision, const std::string& commit) const;
  /// Makes the snapshot's `file` a link to the blob.
  void link(const std::string& commit, const std::string& file, const std::string& etag) const;
  /// Makes the folders, and marks the cache as one for backup programs (CACHEDIR.TAG).
  void create() const;

 private:
  std::filesystem::path cache_, folder_, locks_;
};

/// Held until destroyed, against other processes, huggingface_hub's too. Waits; Ctrl-C ends the wait.
class FileLock {
 public:
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace turboquant
