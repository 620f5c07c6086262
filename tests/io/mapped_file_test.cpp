// What a mapped file does with its pages.
#include "io/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>

#include "core/memory.h"
#include "io/checkpoint.h"
#include "io/error_of.h"
#include "io/files.h"
#include "io/temp_folder.h"

namespace turboquant {
namespace {

constexpr size_t kBytes = (size_t{1} << 20) + 5;

size_t pages_in_memory(const MappedFile& file) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident((file.size() + page - 1) / page);
  if (::mincore(const_cast<std::byte*>(file.data()), file.size(), resident.data()) != 0) return 0;
  size_t count = 0;
  for (const unsigned char state : resident) count += state & 1;
  return count;
}

TEST(MappedFilePages, ComeAndGo) {
  const TempFolder folder;
  write_text(folder / "file", std::string(kBytes, 'x'));
  const auto file = MappedFile::open(folder / "file");
  const size_t all = (kBytes + 4095) / 4096;
  for (int round = 0; round < 3; ++round) {
    file->drop_pages();
    EXPECT_EQ(static_cast<char>(file->data()[kBytes - 1]), 'x');
    file->preload(0, kBytes + 1000);
    if (sysconf(_SC_PAGESIZE) == 4096) {
      EXPECT_EQ(pages_in_memory(*file), all);
    }
    file->preload(kBytes, kBytes + 1);  // behind the end: nothing
  }
}

// A copy in large pages stands where the file was mapped, and stays when pages of the file would be given back.
TEST(MappedFilePages, MoveToLargePages) {
  const TempFolder folder;
  constexpr size_t kSize = 2 * kLargePage + 5000;
  std::string text(kSize, 'x');
  for (size_t i = 0; i < kSize; i += 4096) text[i] = static_cast<char>('a' + i / 4096 % 26);
  write_text(folder / "file", text);
  const auto file = MappedFile::open(folder / "file");
  const std::byte* const before = file->data();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(before) % kLargePage, 0u);
  file->copy_to_large_pages(0, kLargePage);
  file->copy_to_large_pages(kLargePage, kSize + 1000);
  file->copy_to_large_pages(2 * kSize, 3 * kSize);  // behind the end: nothing
  file->release_pages();
  EXPECT_EQ(file->data(), before);
  EXPECT_EQ(std::memcmp(file->data(), text.data(), kSize), 0);
}

TEST(MappedFilePages, AreLockedOrTheLimitIsNamed) {
  const TempFolder folder;
  std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
  write_text(folder / "file", std::string(kBytes, 'x'));
  const auto file = MappedFile::open(folder / "file");
  // In a process of its own, which gives up the right to lock as much as it likes.
  const auto lock_without_rights = [&] {
    struct rlimit none {};
    ::setrlimit(RLIMIT_MEMLOCK, &none);
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(1);
    const std::string error = error_of([&] { file->lock(); });
    std::fprintf(stderr, "%s\n", error.c_str());
    ::_exit(error.find("2 MB cannot be locked in memory") != error.npos ? 0 : 1);
  };
  EXPECT_EXIT(lock_without_rights(), testing::ExitedWithCode(0),
              "may lock 0 MB in all; raise the limit \\(ulimit -l unlimited\\)");
}

}  // namespace
}  // namespace turboquant
