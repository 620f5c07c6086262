#include "hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>

#include "core/interrupt.h"
#include "io/files.h"
#include "turboquant/error.h"

namespace turboquant {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxRef = 4096;
// The first line is the standard's (https://bford.info/cachedir).
constexpr const char* kCacheTag =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Downloaded models; they can be downloaded again.\n";

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error(folder.string() + ": cannot be made: " + error.message() + "; HF_HOME names another place");
}

}  // namespace

bool is_commit(std::string_view text) {
  return text.size() == 40 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

RepositoryCache::RepositoryCache(const fs::path& cache, const std::string& repository) : cache_(cache) {
  std::string name = "models--" + repository;
  name.replace(name.find('/'), 1, "--");
  folder_ = cache / name;
  locks_ = cache / ".locks" / name;
}

std::string RepositoryCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  const fs::path ref = folder_ / "refs" / revision;
  std::error_code error;
  if (!fs::is_regular_file(ref, error)) return "";
  std::string commit = read_text(ref, kMaxRef);
  commit.erase(std::min(commit.find_last_not_of(" \r\n") + 1, commit.size()));
  return is_commit(commit) ? commit : "";
}

void RepositoryCache::write_ref(const std::string& revision, const std::string& commit) const {
  if (is_commit(revision) || commit_of(revision) == commit) return;
  const fs::path ref = folder_ / "refs" / revision;
  make_folders(ref.parent_path());
  write_text(ref, commit);
}

void RepositoryCache::link(const std::string& commit, const std::string& file, const std::string& etag) const {
  const fs::path path = snapshot(commit) / file;
  make_folders(path.parent_path());
  const fs::path target = fs::relative(folder_, path.parent_path()) / "blobs" / etag;
  // Under a temporary name first: the name always leads to a whole file.
  fs::path temporary = path;
  temporary += "." + std::to_string(::getpid()) + ".tmp";
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (!error) fs::rename(temporary, path, error);
  if (error) {
    const std::string reason = error.message();
    fs::remove(temporary, error);
    throw Error(path.string() + ": cannot be made: " + reason + "; HF_HOME names another place");
  }
}

void RepositoryCache::create() const {
  make_folders(folder_ / "blobs");
  make_folders(locks_);
  if (const fs::path tag = cache_ / "CACHEDIR.TAG"; !fs::exists(tag)) write_text(tag, kCacheTag);
}

FileLock::FileLock(const fs::path& path) {
  for (;;) {
    check_interrupt();
    if (fd_ < 0) fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
    if (fd_ < 0) throw Error(path.string() + ": cannot be opened: " + std::strerror(errno));
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) {
      struct stat held {
      }, named{};
      // Whoever held it may have removed it: then another process locks a new file of the same name.
      if (::fstat(fd_, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino) return;
      ::close(fd_);
      fd_ = -1;
    } else if (errno == EWOULDBLOCK || errno == EINTR) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    } else {
      return;  // A file system without locks: huggingface_hub goes on without, too.
    }
  }
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace turboquant
