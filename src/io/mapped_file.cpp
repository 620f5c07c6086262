#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "core/memory.h"
#include "turboquant/error.h"

namespace turboquant {

namespace {

// A mapping that begins at a multiple of kLargePage: room for it is reserved first, and the rest given back.
void* map_aligned(size_t size, int fd) {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE)), room = (size + page - 1) / page * page + kLargePage;
  void* const reserved = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  auto* const begin = static_cast<std::byte*>(reserved);
  const size_t before = (kLargePage - reinterpret_cast<uintptr_t>(begin) % kLargePage) % kLargePage;
  void* const data = ::mmap(begin + before, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    ::munmap(reserved, room);
    errno = error;
    return MAP_FAILED;
  }
  if (before > 0) ::munmap(begin, before);
  const size_t used = before + (size + page - 1) / page * page;
  if (used < room) ::munmap(begin + used, room - used);
  return data;
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  return std::make_shared<const MappedFile>(path);
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  // Without O_NONBLOCK opening a named pipe would wait for its writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT) throw Error(path.string() + ": no such file");
    throw Error(path.string() + ": cannot be read: " + std::strerror(errno));
  }
  struct stat info {};
  const int failed = ::fstat(fd, &info);
  const int stat_error = errno;
  std::string problem;
  void* data = MAP_FAILED;
  if (failed != 0) {
    problem = std::string("cannot be read: ") + std::strerror(stat_error);
  } else if (S_ISDIR(info.st_mode)) {
    problem = "is a folder, expected a file";
  } else if (!S_ISREG(info.st_mode)) {
    problem = "is not a regular file";
  } else if (info.st_size == 0) {
    problem = "is empty; it was not fully downloaded or written";
  } else {
    data = map_aligned(static_cast<size_t>(info.st_size), fd);
    if (data == MAP_FAILED) problem = std::string("cannot be mapped into memory: ") + std::strerror(errno);
  }
  ::close(fd);  // the mapping stays
  if (!problem.empty()) throw Error(path.string() + ": " + problem);
  data_ = static_cast<const std::byte*>(data);
  size_ = static_cast<uint64_t>(info.st_size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
}

void MappedFile::release_pages() const {
  if (copied_) return;  // there is no file behind these pages
  // A hint: where it fails the pages only stay longer.
  ::madvise(const_cast<std::byte*>(data_), static_cast<size_t>(size_), MADV_DONTNEED);
}

void MappedFile::lock() const {
#ifdef MLOCK_ONFAULT
  const int failed = ::mlock2(data_, static_cast<size_t>(size_), MLOCK_ONFAULT);  // preload() reads, and shows progress
#else
  const int failed = ::mlock(data_, static_cast<size_t>(size_));
#endif
  locked_ = failed == 0;
  if (locked_) return;
  const int error = errno;
  const auto megabytes = [](uint64_t bytes) { return std::to_string((bytes + 999'999) / 1'000'000) + " MB"; };
  struct rlimit limit {};
  std::string allowed;
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    allowed = "; this process may lock " + megabytes(limit.rlim_cur) + " in all";
  throw Error(path_.string() + ": its " + megabytes(size_) + " cannot be locked in memory: " + std::strerror(error) +
              allowed + "; raise the limit (ulimit -l unlimited), or use --preload, which does not lock");
}

void MappedFile::preload(uint64_t begin, uint64_t end) const {
  constexpr uint64_t kPage = 4096;  // the smallest there are: reading a byte of each is enough
  end = std::min(end, size_);
  if (begin >= end) return;
  const uint64_t first = begin / kPage * kPage;
  ::madvise(const_cast<std::byte*>(data_) + first, static_cast<size_t>(end - first), MADV_WILLNEED);
  for (uint64_t at = begin; at < end; at += kPage)
    static_cast<void>(*static_cast<const volatile std::byte*>(data_ + at));
}

void MappedFile::copy_to_large_pages(uint64_t begin, uint64_t end) const {
  end = std::min(end, size_);
#ifdef __linux__
  if (begin >= end) return;
  // A new place is filled, and then moved to where the file was mapped.
  const auto size = static_cast<size_t>(end - begin);
  const size_t room = (size + kLargePage - 1) / kLargePage * kLargePage + kLargePage;
  void* const reserved = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved != MAP_FAILED) {
    auto* const first = static_cast<std::byte*>(reserved);
    std::byte* const copy = first + (kLargePage - reinterpret_cast<uintptr_t>(first) % kLargePage) % kLargePage;
    use_large_pages(copy, size);
    std::memcpy(copy, data_ + begin, size);
    ::mprotect(copy, size, PROT_READ);
    auto* const place = const_cast<std::byte*>(data_) + begin;
    const bool moved = ::mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) != MAP_FAILED;
    // The place that was moved from may be another's by now.
    std::byte* const behind = copy + (size + kLargePage - 1) / kLargePage * kLargePage;
    if (copy > first) ::munmap(first, static_cast<size_t>(copy - first));
    if (behind < first + room) ::munmap(behind, static_cast<size_t>(first + room - behind));
    if (!moved) ::munmap(copy, static_cast<size_t>(behind - copy));
    if (moved) {
      copied_ = true;
      if (locked_) ::mlock(place, size);
      return;
    }
  }
#endif
  preload(begin, end);
}

void MappedFile::drop_pages() const {
  release_pages();
#ifdef POSIX_FADV_DONTNEED
  if (const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC); fd >= 0) {
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
#endif
}

Tensor tensor_in_file(const std::shared_ptr<const MappedFile>& file, uint64_t offset, DType dtype, Shape shape) {
  const std::byte* data = file->data() + offset;
  if (reinterpret_cast<uintptr_t>(data) % item_size(dtype) == 0) return {dtype, shape, data, file};
  // Kernels read elements through pointers to their type, which C++ and some processors allow at aligned addresses
  // only. Writers of other projects may start a tensor anywhere; such a tensor costs a copy.
  Tensor copy = Tensor::zeros(dtype, shape);
  std::memcpy(copy.data<std::byte>(), data, copy.bytes());
  return copy;
}

}  // namespace turboquant
