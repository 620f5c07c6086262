#include "hub/download.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>

#include "core/interrupt.h"
#include "hub/checksum.h"
#include "io/files.h"

namespace turboquant {
namespace fs = std::filesystem;
namespace {

constexpr int kTries = 5;  // in a row without a new byte
constexpr size_t kPiece = size_t{1} << 20;

// How an ETag names the content. Other servers have other ETags, which say nothing about it.
enum class EtagKind { sha256, git, other };

EtagKind etag_kind(std::string_view etag) {
  if (etag.find_first_not_of("0123456789abcdef") != etag.npos) return EtagKind::other;
  return etag.size() == 64 ? EtagKind::sha256 : etag.size() == 40 ? EtagKind::git : EtagKind::other;
}

std::unique_ptr<Checksum> checksum_for(EtagKind kind, uint64_t size) {
  const bool git = kind == EtagKind::git;
  auto checksum = std::make_unique<Checksum>(git ? Checksum::Kind::sha1 : Checksum::Kind::sha256);
  // Git hashes a header before the content (gitformat-loose).
  if (git) checksum->update(fmt::format("blob {}", size) + '\0');
  return checksum;
}

// ETAG.incomplete, growing at its end.
class PartialFile {
 public:
  explicit PartialFile(fs::path path) : path_(std::move(path)) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) fail();
    struct stat info {};
    if (::fstat(fd_, &info) != 0) fail();
    size_ = static_cast<uint64_t>(info.st_size);
  }
  ~PartialFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  uint64_t size() const { return size_; }

  void append(std::string_view data) {
    while (!data.empty()) {
      const ssize_t written = ::pwrite(fd_, data.data(), data.size(), static_cast<off_t>(size_));
      if (written < 0 && errno == EINTR) continue;
      if (written == 0) errno = ENOSPC;
      if (written <= 0) fail();
      size_ += static_cast<uint64_t>(written);
      data.remove_prefix(static_cast<size_t>(written));
    }
  }

  void clear() {
    if (::ftruncate(fd_, 0) != 0) fail();
    size_ = 0;
  }

  // The content so far, for the checksum.
  void read_into(Checksum& checksum) const {
    std::string piece(kPiece, '\0');
    for (uint64_t at = 0; at < size_;) {
      check_interrupt();
      const ssize_t got = ::pread(fd_, piece.data(), piece.size(), static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) fail();
      checksum.update(std::string_view(piece).substr(0, static_cast<size_t>(got)));
      at += static_cast<uint64_t>(got);
    }
  }

  void finish(const fs::path& final_path) {
    if (::fsync(fd_) != 0) fail();
    if (::rename(path_.c_str(), final_path.c_str()) != 0) fail();
  }

  void remove() { ::unlink(path_.c_str()); }

 private:
  [[noreturn]] void fail() const {
    throw Error(path_.string() + ": cannot be written: " + std::strerror(errno) +
                "; what has come is kept, the same command goes on from there");
  }

  fs::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

void wait_before_try(int failures) {
  for (int tenths = 10 << (failures - 1); tenths > 0; --tenths) {
    check_interrupt();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

class Download {
 public:
  Download(const Repository& repository, const RemoteFile& file, const fs::path& partial, Progress& progress)
      : repository_(repository), file_(file), kind_(etag_kind(file.etag)), partial_(partial), progress_(progress) {}

  void run(const fs::path& final_path) {
    if (partial_.size() > file_.size) partial_.clear();
    bool resumed = partial_.size() > 0;
    for (;;) {
      checksum_ = checksum_for(kind_, file_.size);
      partial_.read_into(*checksum_);
      fetch();
      if (kind_ == EtagKind::other || checksum_->hex() == file_.etag) return partial_.finish(final_path);
      partial_.clear();
      // What an earlier run left may be what is damaged: once more from the start.
      if (!resumed) break;
      resumed = false;
    }
    partial_.remove();
    throw Error(fmt::format(
        "{}/{}: the download is damaged: its checksum is not {}; it was removed, run the same command again",
        repository_.name(), file_.name, file_.etag));
  }

 private:
  // Until all bytes are there, over as many connections as it takes.
  void fetch() {
    int failures = 0;
    while (partial_.size() < file_.size) {
      const uint64_t before = partial_.size();
      try {
        receive();
        if (partial_.size() < file_.size) throw NetworkError("the connection ends too early");
      } catch (const NetworkError& error) {
        if (partial_.size() > before) failures = 0;
        if (++failures == kTries)
          throw NetworkError(
              fmt::format("{}/{}: {} of {} bytes, then: {}; what has come is kept, the same command goes on",
                          repository_.name(), file_.name, partial_.size(), file_.size, error.what()));
        wait_before_try(failures);
      }
    }
  }

  void receive() {
    const uint64_t begin = partial_.size();
    HttpAnswer answer = repository_.client().get(file_.url, begin);
    if (answer.status() == 416) return start_over();
    repository_.check(answer, file_.name);
    // A server that ignores the range sends all of it, with 200.
    if (begin > 0 && answer.status() != 206) start_over();
    if (answer.status() == 206 && !answer.header("content-range").starts_with(fmt::format("bytes {}-", begin)))
      throw NetworkError("the answer is not the part that was asked for");
    std::string piece;
    while (answer.read(piece)) {
      if (piece.size() > file_.size - partial_.size())
        throw Error(fmt::format("{}/{}: the server sends more than the {} bytes that it announced", repository_.name(),
                                file_.name, file_.size));
      partial_.append(piece);
      checksum_->update(piece);
      progress_.advance(static_cast<int64_t>(piece.size()));
    }
  }

  void start_over() {
    partial_.clear();
    checksum_ = checksum_for(kind_, file_.size);
  }

  const Repository& repository_;
  const RemoteFile& file_;
  EtagKind kind_;
  PartialFile partial_;
  Progress& progress_;
  std::unique_ptr<Checksum> checksum_;
};

bool is_finished(const RepositoryCache& cache, const RemoteFile& file) {
  std::error_code error;
  return fs::file_size(cache.blob(file.etag), error) == file.size && !error;
}

}  // namespace

uint64_t bytes_there(const RepositoryCache& cache, const RemoteFile& file) {
  if (is_finished(cache, file)) return file.size;
  std::error_code error;
  const uint64_t size = fs::file_size(cache.incomplete(file.etag), error);
  return error || size > file.size ? 0 : size;
}

void download(const Repository& repository, const RepositoryCache& cache, const std::string& commit,
              const RemoteFile& file, Progress& progress) {
  const FileLock lock(cache.lock(file.etag));
  // Another process may have brought it while this one waited.
  if (!is_finished(cache, file))
    Download(repository, file, cache.incomplete(file.etag), progress).run(cache.blob(file.etag));
  cache.link(commit, file.name, file.etag);
}

}  // namespace turboquant
