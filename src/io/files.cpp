#include "io/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "turboquant/error.h"

namespace turboquant {
namespace {

// macOS refuses a single write of 2 GiB or more, Linux cuts it short.
constexpr size_t kMaxWrite = size_t{1} << 30;

std::string printable(std::string_view text, size_t limit) {
  std::string out(text.substr(0, limit));
  for (size_t i = 0; i < out.size(); ++i) {
    const auto byte = static_cast<unsigned char>(out[i]);
    if (byte < 0x20 || byte == 0x7f) out[i] = '?';
    // U+0080 to U+009F are control characters too, two bytes long in UTF-8.
    if (byte == 0xc2 && i + 1 < out.size() && static_cast<unsigned char>(out[i + 1]) < 0xa0) out.replace(i, 2, "?");
  }
  if (text.size() > limit) {
    // The cut may have left a part of a character.
    while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
    if (!out.empty() && static_cast<unsigned char>(out.back()) >= 0xc0) out.pop_back();
    out += "...";
  }
  // Writing it as JSON replaces what is not UTF-8.
  const std::string valid = nlohmann::json(out).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return nlohmann::json::parse(valid).get<std::string>();
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path, Kind kind) : path_(std::move(path)), kind_(kind) {
  temporary_ = path_;
  int flags = O_RDWR | O_CREAT | O_CLOEXEC;
  if (kind_ == Kind::resumable) {
    temporary_ += ".partial";
    if (::rename(path_.c_str(), temporary_.c_str()) != 0 && errno != ENOENT) fail(errno);
  } else {
    // The process id keeps two commands that write the same file from writing into each other's temporary file.
    temporary_ += '.' + std::to_string(::getpid()) + ".tmp";
    flags |= O_TRUNC;
  }
  fd_ = ::open(temporary_.c_str(), flags, 0666);
  if (fd_ < 0) fail(errno);
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (kind_ == Kind::fresh) ::unlink(temporary_.c_str());
}

void OutputFile::fail(int error) const { throw Error(path_.string() + ": cannot be written: " + std::strerror(error)); }

void OutputFile::reserve(uint64_t bytes) {
  if (bytes == 0) return;
#ifdef __linux__
  int error = 0;
  do {
    error = ::posix_fallocate(fd_, 0, static_cast<off_t>(bytes));
  } while (error == EINTR);
  if (error == 0) return;
  // A file system that cannot reserve is no reason to stop: a full disk then shows at the write.
  if (error != EOPNOTSUPP && error != ENOSYS && error != EINVAL) fail(error);
#endif
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) fail(errno);
}

void OutputFile::write_at(uint64_t offset, const void* data, size_t bytes) {
  const auto* next = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(fd_, next, std::min(bytes, kMaxWrite), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(written < 0 ? errno : ENOSPC);
    next += written;
    offset += static_cast<uint64_t>(written);
    bytes -= static_cast<size_t>(written);
  }
}

void OutputFile::read_at(uint64_t offset, void* data, size_t bytes) const {
  auto* next = static_cast<std::byte*>(data);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd_, next, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail(got < 0 ? errno : EIO);
    next += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
}

void OutputFile::sync() {
  if (::fsync(fd_) != 0) fail(errno);
}

void OutputFile::commit() {
  sync();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
  const int fd = fd_;
  fd_ = -1;  // from here on there is no temporary file to remove
  // After fsync nothing is left to write, but a network file system may still report a late error.
  if (::close(fd) != 0 && errno != EINTR) {
    const int error = errno;
    ::unlink(path_.c_str());
    fail(error);
  }
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  OutputFile file(path);
  file.write_at(0, text.data(), text.size());
  file.commit();
}

void sync_folder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw Error(folder.string() + ": cannot be opened: " + std::strerror(errno));
  const int failed = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  // Some file systems cannot sync a folder; there is nothing more that a program could do there.
  if (failed != 0 && error != EINVAL && error != ENOTSUP)
    throw Error(folder.string() + ": cannot be written to the disk: " + std::strerror(error));
}

std::string read_text(const std::filesystem::path& path, uint64_t max_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) throw Error(path.string() + ": no such file");
    throw Error(path.string() + ": cannot be read: " + std::strerror(errno));
  }
  std::string text;
  std::string problem;
  struct stat info {};
  if (::fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) {
    problem = "is a folder, expected a file";
  } else {
    // What stat says is a hint only: pipes and /proc say 0, and a file may grow.
    const auto hint = std::min(static_cast<uint64_t>(std::max<off_t>(info.st_size, 0)), max_bytes);
    size_t used = 0;
    text.resize(static_cast<size_t>(hint) + 1);
    for (;;) {
      const ssize_t got = ::read(fd, text.data() + used, std::min(text.size() - used, kMaxWrite));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) problem = std::string("cannot be read: ") + std::strerror(errno);
      if (got <= 0) break;
      used += static_cast<size_t>(got);
      if (used > max_bytes) {
        problem = "is larger than the " + std::to_string(max_bytes) + " bytes that such a file may have";
        break;
      }
      if (used == text.size()) text.resize(text.size() + std::max<size_t>(text.size(), 65536));
    }
    text.resize(used);
  }
  ::close(fd);
  if (!problem.empty()) throw Error(path.string() + ": " + problem);
  return text;
}

nlohmann::json parse_json(std::string_view text, const std::string& where) {
  const auto limit_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxJsonDepth)
      throw Error(where + ": JSON nested deeper than " + std::to_string(kMaxJsonDepth) + " levels");
    return true;
  };
  // The parser takes a zero byte for the end of its input.
  if (text.find('\0') != text.npos) throw Error(where + ": not valid JSON: it holds zero bytes");
  try {
    return nlohmann::json::parse(text.begin(), text.end(), limit_depth);
  } catch (const nlohmann::json::exception& error) {
    throw Error(where + ": not valid JSON: " + json_problem(error));
  }
}

nlohmann::json read_json(const std::filesystem::path& path) {
  return parse_json(read_text(path, kMaxJsonBytes), path.string());
}

std::string quote(std::string_view text) {
  std::string out = "'";
  out += printable(text, 200);
  return out += '\'';
}

std::string json_problem(const std::exception& error) {
  std::string_view text = error.what();
  if (const size_t end = text.find("] "); text.starts_with("[json.exception") && end != std::string_view::npos)
    text.remove_prefix(end + 2);
  return printable(text, 300);
}

}  // namespace turboquant
