// A file mapped into memory, read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "core/tensor.h"

namespace turboquant {

/// Maps a whole file. Held by shared_ptr: every tensor that looks into the file keeps the mapping alive. The file must
/// not be cut while it is mapped (a read behind its new end is a SIGBUS); replacing it by rename is fine.
class MappedFile {
 public:
  /// Throws Error naming the path: missing, unreadable, a folder or another thing that is no file, empty.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// The first byte; aligned to a page.
  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }
  const std::filesystem::path& path() const { return path_; }
  /// Takes the pages that were read out of this process's memory. Views stay valid: what is read again comes from the
  /// file, or from the system's cache of it.
  void release_pages() const;

  /// Keeps in memory what has been read of the file or will be, as long as it is mapped. Error: the process may not
  /// lock so much.
  void lock() const;
  /// Reads bytes [begin, end) into memory.
  void preload(uint64_t begin, uint64_t end) const;
  /// The same into memory of this process alone, of large pages where the system has them: `begin` is a multiple of
  /// kLargePage. Addresses stay; changes of the file are not seen any more. Not while other threads read it.
  void copy_to_large_pages(uint64_t begin, uint64_t end) const;
  /// Gives all pages back to the system, which must read them again at the next use; for tests of that.
  void drop_pages() const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
  mutable bool locked_ = false, copied_ = false;
};

/// The tensor whose bytes start at `offset` of the file: a view if they lie aligned for the element type, else a copy
/// in new memory. The caller has checked that they lie inside the file.
Tensor tensor_in_file(const std::shared_ptr<const MappedFile>& file, uint64_t offset, DType dtype, Shape shape);

}  // namespace turboquant
