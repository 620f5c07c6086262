#include "core/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace turboquant {
namespace {

TEST(MachineMemory, IsPlausible) {
  const MachineMemory memory = machine_memory();
  EXPECT_GT(memory.total, uint64_t{64} << 20);
  EXPECT_GT(memory.available, 0u);
  EXPECT_LE(memory.available, memory.total);
}

TEST(PeakMemory, CountsSinceTheReset) {
  if (!reset_peak_memory()) GTEST_SKIP() << "this system does not say";
  constexpr size_t kBytes = size_t{64} << 20;
  const uint64_t before = peak_memory();
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 1, kBytes);
  ::munmap(memory, kBytes);
  EXPECT_GE(peak_memory(), before + kBytes * 3 / 4);
  ASSERT_TRUE(reset_peak_memory());
  EXPECT_LT(peak_memory(), before + kBytes / 2);
}

TEST(SystemMemory, IsZeroAlignedAndWritable) {
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{64} << 10, (size_t{3} << 20) + 5}) {
    const std::shared_ptr<std::byte> memory = system_memory(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0);
    EXPECT_EQ(std::count(memory.get(), memory.get() + bytes, std::byte{0}), static_cast<std::ptrdiff_t>(bytes));
    std::fill(memory.get(), memory.get() + bytes, std::byte{1});
  }
}

// Whether something is mapped there: mincore(2) fails where nothing is.
bool is_mapped(void* data) {
#if defined(__APPLE__)
  char residence = 0;
#else
  unsigned char residence = 0;
#endif
  return ::mincore(data, 1, &residence) == 0;
}

TEST(SystemMemory, GoesBackToTheSystem) {
  std::shared_ptr<std::byte> memory = system_memory(100000);
  std::shared_ptr<std::byte> another = memory;
  void* const data = memory.get();
  memory.reset();
  EXPECT_TRUE(is_mapped(data));
  another.reset();
  EXPECT_FALSE(is_mapped(data));
}

TEST(PageRanges, NeighboursAreOneRange) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto at = [&](uintptr_t offset) { return reinterpret_cast<const void*>(1000 * page + offset); };
  PageRanges pages;
  pages.add(at(20 * page + 5), 10);
  pages.add(at(3), 2 * page);  // ends in the third page
  pages.add(at(3 * page), page);
  pages.add(at(4 * page + 100), 0);
  EXPECT_EQ(pages.bytes(), 10 + 3 * page);
  const auto apart = pages.merged(0);
  ASSERT_EQ(apart.size(), 2u);
  EXPECT_EQ(apart[0].begin, 1000 * page);
  EXPECT_EQ(apart[0].end, 1004 * page);
  EXPECT_EQ(apart[1].begin, 1020 * page);
  EXPECT_EQ(apart[1].end, 1021 * page);
  EXPECT_EQ(pages.merged(16 * page).size(), 1u);
  EXPECT_TRUE(PageRanges().merged().empty());
}

TEST(PageRanges, AreOnlyAdvice) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* data = ::mmap(nullptr, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(data, MAP_FAILED);
  static_cast<char*>(data)[page] = 7;
  PageRanges pages;
  pages.add(data, 4 * page);
  pages.will_need();
  EXPECT_EQ(static_cast<char*>(data)[page], 7);
  ::munmap(data, 4 * page);
}

TEST(PageWatch, IsActiveForAWhileAfterAFault) {
  PageWatch watch;
  for (int i = 0; i < PageWatch::kPatience; ++i) EXPECT_TRUE(watch.see(0)) << i;
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(watch.see(0)) << i;
  EXPECT_TRUE(watch.see(5));
  for (int i = 1; i < PageWatch::kPatience; ++i) EXPECT_TRUE(watch.see(5)) << i;
  EXPECT_FALSE(watch.see(5));
}

}  // namespace
}  // namespace turboquant
