#include "core/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace turboquant {
namespace {

// More threads than this machine may have processors are among them.
constexpr int kThreadCounts[] = {1, 2, 3, 5};

TEST(ThreadPool, RunCallsEveryThreadOnce) {
  for (const int threads : kThreadCounts) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.size(), threads);
    std::vector<int> calls(static_cast<size_t>(threads));
    for (int round = 1; round <= 20; ++round) {
      pool.run([&](int thread) { ++calls[static_cast<size_t>(thread)]; });
      for (const int n : calls) ASSERT_EQ(n, round);
    }
  }
  EXPECT_GE(ThreadPool().size(), 1);
}

TEST(ThreadPool, ParallelForCoversEveryIndexOnce) {
  for (const int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 3, 7, 16, 63, 64, 65, 1000, 4099})
      for (const int64_t grain : {1, 2, 3, 16, 64, 5000}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        std::atomic<bool> good = true;
        pool.parallel_for(n, grain, [&](int64_t begin, int64_t end) {
          if (begin < 0 || begin >= end || end > n || (threads > 1 && end - begin > grain)) {
            good = false;
            return;
          }
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        ASSERT_TRUE(good) << "a piece out of range: " << n << " by " << grain << " on " << threads << " threads";
        ASSERT_TRUE(std::all_of(seen.begin(), seen.end(), [](const auto& count) { return count == 1; }))
            << n << " by " << grain << " on " << threads << " threads";
      }
  }
}

TEST(ThreadPool, AnExceptionOfAnyThreadIsThrownAgain) {
  for (const int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (int thrower = 0; thrower < threads; ++thrower) {
      std::string text;
      try {
        pool.run([&](int thread) {
          if (thread == thrower) throw std::runtime_error("thread " + std::to_string(thread));
        });
      } catch (const std::runtime_error& error) {
        text = error.what();
      }
      ASSERT_EQ(text, "thread " + std::to_string(thrower));
      std::atomic<int> calls = 0;  // the pool works on, and forgot the exception
      pool.run([&](int) { ++calls; });
      ASSERT_EQ(calls, threads);
    }
  }
}

TEST(ThreadPool, OneOfManyExceptionsIsThrown) {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round)
    EXPECT_THROW(
        pool.parallel_for(100, 1, [](int64_t begin, int64_t) { throw std::out_of_range(std::to_string(begin)); }),
        std::out_of_range);
  EXPECT_THROW(pool.parallel_for(1, 8, [](int64_t, int64_t) { throw std::out_of_range("alone"); }), std::out_of_range);
}

TEST(ThreadPool, ACallFromInsideRunsOnTheCallingThread) {
  for (const int threads : kThreadCounts) {
    ThreadPool pool(threads), other(2);
    std::atomic<int> runs = 0, indices = 0, foreign = 0;
    pool.run([&](int) {
      const std::thread::id self = std::this_thread::get_id();
      pool.run([&](int thread) {
        runs += thread == 0 ? 1 : 100;
        if (std::this_thread::get_id() != self) ++foreign;
      });
      other.parallel_for(10, 1, [&](int64_t begin, int64_t end) {
        indices += static_cast<int>(end - begin);
        if (std::this_thread::get_id() != self) ++foreign;
      });
    });
    EXPECT_EQ(runs, threads);
    EXPECT_EQ(indices, 10 * threads);
    EXPECT_EQ(foreign, 0);
    EXPECT_THROW(pool.run([&](int) { pool.run([](int) { throw std::out_of_range("inside"); }); }), std::out_of_range);
  }
}

TEST(ThreadPool, ThousandsOfTinyRegions) {
  for (const int threads : kThreadCounts) {
    ThreadPool pool(threads);
    int64_t total = 0;
    for (int region = 0; region < 3000; ++region) {
      std::atomic<int64_t> sum = 0;
      pool.parallel_for(8, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) sum += i;
      });
      total += sum;
    }
    EXPECT_EQ(total, 3000 * 28);
  }
}

// Workers that fell asleep between two regions wake up.
TEST(ThreadPool, RegionsAfterASleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> calls = 0;
    pool.run([&](int) { ++calls; });
    EXPECT_EQ(calls, 3);
  }
}

TEST(ThreadPool, RegionsOfSeveralCallersTakeTurns) {
  ThreadPool pool(2);
  std::atomic<int> inside = 0, overlaps = 0;
  std::atomic<int64_t> sum = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int region = 0; region < 200; ++region) {
        pool.run([&](int) {
          if (++inside > 2) ++overlaps;
          ++sum;
          --inside;
        });
      }
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(overlaps, 0);
  EXPECT_EQ(sum, 4 * 200 * 2);
}

TEST(ThreadPool, ManyPoolsStartAndStop) {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(1 + i % 5);
    if (i % 2 == 0) pool.run([](int) {});
  }
}

}  // namespace
}  // namespace turboquant
