// The other ops through the interface, on the level that the environment chooses, against double precision.
#include "ops/ops.h"

#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "ops/cpu/arena.h"
#include "ops/cpu/kernels.h"
#include "ops/support.h"
#include "quant/fixture.h"
#include "quant/quantize.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

std::unique_ptr<Ops> default_ops(int threads = 2) { return make_cpu_ops(std::make_shared<ThreadPool>(threads)); }

/// |result - expected| is at most bound * |expected|, of each row of `width`.
void expect_rows_near(const Tensor& result, const std::vector<double>& expected, int64_t width, double bound) {
  ASSERT_EQ(static_cast<size_t>(result.elements()), expected.size());
  for (size_t begin = 0; begin < expected.size(); begin += static_cast<size_t>(width)) {
    double difference = 0, size = 0;
    for (size_t i = begin; i < begin + static_cast<size_t>(width); ++i) {
      difference += (result.data<float>()[i] - expected[i]) * (result.data<float>()[i] - expected[i]);
      size += expected[i] * expected[i];
    }
    ASSERT_LE(std::sqrt(difference), bound * std::sqrt(size)) << "row " << begin / static_cast<size_t>(width);
  }
}

/// Error of a sum of some thousand positive floats: the scalar reference adds them one after another, the others on 8
/// or 16 lanes.
double long_sum_bound() { return kernels().level == CpuLevel::scalar ? 2e-5 : 4e-6; }

const std::pair<int64_t, int64_t> kShapes[] = {{1, 1}, {1, 64}, {2, 37}, {7, 576}, {33, 130}, {3, 5000}};

TEST(Ops, RmsNorm) {
  Dice dice(1);
  for (const auto& [tokens, width] : kShapes) {
    const auto ops = default_ops();
    const Tensor x = random_tensor(tokens, width, dice, 5), weight = random_tensor(1, width, dice).reshape({width});
    std::vector<double> expected;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = x.data<float>() + t * width;
      const double squares = std::pow(norm(row, width), 2);
      for (int64_t i = 0; i < width; ++i)
        expected.push_back(row[i] / std::sqrt(squares / static_cast<double>(width) + 0.01) * weight.data<float>()[i]);
    }
    expect_rows_near(ops->rms_norm(x, weight, 0.01F), expected, width, long_sum_bound() / 2);
  }
}

TEST(Ops, RopeTurnsTheHalvesOfEachHead) {
  Dice dice(2);
  for (const int64_t dim : {2, 16, 64, 96, 128})
    for (const int64_t heads : {1, 3}) {
      constexpr int64_t kPositions = 50;
      const int64_t half = dim / 2;
      Tensor cos = Tensor::zeros(DType::f32, {kPositions, half}), sin = Tensor::zeros(DType::f32, {kPositions, half});
      const auto angle = [&](int64_t position, int64_t i) {
        return static_cast<double>(position) * std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      };
      for (int64_t p = 0; p < kPositions; ++p)
        for (int64_t i = 0; i < half; ++i) {
          cos.data<float>()[p * half + i] = static_cast<float>(std::cos(angle(p, i)));
          sin.data<float>()[p * half + i] = static_cast<float>(std::sin(angle(p, i)));
        }
      const std::vector<int32_t> positions = {0, 49, 7, 7, 31};
      const Tensor x = random_tensor(5, heads * dim, dice);
      std::vector<double> expected(static_cast<size_t>(x.elements()));
      for (int64_t t = 0; t < 5; ++t)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t i = 0; i < half; ++i) {
            const auto at = static_cast<size_t>((t * heads + h) * dim + i);
            const double a = x.data<float>()[at], b = x.data<float>()[at + static_cast<size_t>(half)];
            const double turn = angle(positions[static_cast<size_t>(t)], i);
            expected[at] = a * std::cos(turn) - b * std::sin(turn);
            expected[at + static_cast<size_t>(half)] = b * std::cos(turn) + a * std::sin(turn);
          }
      const auto ops = default_ops();
      expect_rows_near(ops->rope(x, cos, sin, positions), expected, heads * dim, 3e-7);
    }
}

TEST(Ops, SwigluAddAndSoftmax) {
  Dice dice(3);
  for (const auto& [tokens, width] : kShapes) {
    const auto ops = default_ops();
    const Tensor a = random_tensor(tokens, width, dice, 4), b = random_tensor(tokens, width, dice);
    std::vector<double> swiglu, sum, softmax;
    for (int64_t i = 0; i < a.elements(); ++i) {
      const double x = a.data<float>()[i], y = b.data<float>()[i];
      swiglu.push_back(x / (1 + std::exp(-x)) * y);
      sum.push_back(x + y);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = a.data<float>() + t * width;
      double total = 0;
      for (int64_t i = 0; i < width; ++i) total += std::exp(static_cast<double>(row[i]));
      for (int64_t i = 0; i < width; ++i) softmax.push_back(std::exp(static_cast<double>(row[i])) / total);
    }
    expect_rows_near(ops->swiglu(a, b), swiglu, width, 6e-7);
    expect_rows_near(ops->add(a, b), sum, width, 1e-7);
    expect_rows_near(ops->softmax(a), softmax, width, long_sum_bound());
  }
}

TEST(Ops, GatherRowsCopiesRows) {
  Dice dice(4);
  const Tensor x = random_tensor(6, 33, dice);
  const std::vector<int32_t> rows = {5, 0, 5, 2};
  const auto ops = default_ops();
  const Tensor y = ops->gather_rows(x, rows);
  ASSERT_EQ(y.shape(), (Shape{4, 33}));
  for (int64_t i = 0; i < 4; ++i)
    EXPECT_TRUE(same_bytes(y.rows(i, i + 1), x.rows(rows[static_cast<size_t>(i)], rows[static_cast<size_t>(i)] + 1)));
  EXPECT_EQ(ops->gather_rows(x, {}).shape(), (Shape{0, 33}));
}

TEST(Ops, EmbeddingOfADenseTableCopiesItsRows) {
  Dice dice(5);
  const std::vector<int32_t> ids = {0, 19, 3, 3, 7};
  const auto ops = default_ops();
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Weight table;
    table.rows = 20;
    table.cols = 48;
    table.data = from_float(dice.normals(20 * 48).data(), {20, 48}, dtype);
    const Tensor all = to_float(table.data), y = ops->embedding(table, {}, ids);
    ASSERT_EQ(y.shape(), (Shape{5, 48}));
    for (int64_t i = 0; i < 5; ++i)
      EXPECT_TRUE(same_bytes(y.rows(i, i + 1), all.rows(ids[static_cast<size_t>(i)], ids[static_cast<size_t>(i)] + 1)));
  }
}

// Rotating back keeps lengths, so a row's error is at most what rounding to int8 did to it: half a step an element.
TEST(Ops, EmbeddingOfARotatedInt8TableIsTheOriginalRowWithinHalfAStep) {
  constexpr int64_t kRows = 35, kCols = 192;
  Dice dice(6);
  const Tensor w = random_tensor(kRows, kCols, dice, 0.02F);
  const Rotation rotation = make_rotation(kCols, 42);
  const Weight table = quantize(w, rotation, {QuantSpec::Method::tcq16, 8, 64, DType::f16}, nullptr);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < kRows; ++i) ids.push_back(kRows - 1 - i);
  for (const int threads : {1, 3}) {
    const auto ops = default_ops(threads);
    const Tensor y = ops->embedding(table, rotation, ids);
    for (int64_t i = 0; i < kRows; ++i) {
      const int64_t id = ids[static_cast<size_t>(i)];
      std::vector<float> difference(static_cast<size_t>(kCols));
      for (int64_t k = 0; k < kCols; ++k)
        difference[static_cast<size_t>(k)] = y.data<float>()[i * kCols + k] - w.data<float>()[id * kCols + k];
      const double step = half_to_float(table.scales.data<uint16_t>()[id]);
      EXPECT_LE(norm(difference.data(), kCols), 0.501 * step * std::sqrt(static_cast<double>(kCols))) << id;
      EXPECT_LT(norm(difference.data(), kCols), 0.01 * norm(w.data<float>() + id * kCols, kCols)) << id;
    }
  }
}

TEST(Ops, EachCallsEveryPieceOnce) {
  Dice dice(4);
  const Tensor x = random_tensor(3, 50, dice);
  for (const int threads : {1, 2, 5}) {
    const auto ops = default_ops(threads);
    for (const std::vector<int64_t>& weights : {std::vector<int64_t>{},
                                                {0},
                                                {0, 0},
                                                {7},
                                                {1, 1, 1},
                                                {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                                {1, 1, 100, 1, 1, 1}}) {
      std::vector<int> calls(weights.size());
      std::vector<Tensor> results(weights.size());
      ops->begin_scope();
      ops->each(weights, [&](Ops& own, int64_t i) {
        const auto at = static_cast<size_t>(i);
        ++calls[at];
        results[at] = x;
        for (int64_t n = 0; n < i; ++n) results[at] = own.add(results[at], x);
      });
      EXPECT_EQ(calls, std::vector<int>(weights.size(), 1));
      for (size_t i = 0; i < results.size(); ++i)
        for (int64_t e = 0; e < x.elements(); ++e)
          ASSERT_NEAR(results[i].data<float>()[e], static_cast<float>(i + 1) * x.data<float>()[e],
                      1e-5F * static_cast<float>(i + 1) * std::abs(x.data<float>()[e]))
              << threads << " threads, piece " << i << " of " << weights.size();
    }
    EXPECT_THROW(ops->each(std::vector<int64_t>(9, 1),
                           [](Ops&, int64_t i) {
                             if (i == 6) throw Error("a piece");
                           }),
                 Error);
  }
}

TEST(Ops, EachSharesOutLightPiecesAndKeepsHeavyOnesForAllThreads) {
  const auto ops = default_ops();
  std::mutex mutex;
  std::condition_variable both;
  std::set<std::thread::id> threads;
  std::thread::id of_the_heavy_one;
  ops->each(std::vector<int64_t>{1, 1, 1, 30, 1, 1, 1, 1}, [&](Ops&, int64_t i) {
    std::unique_lock lock(mutex);
    if (i == 3) {
      of_the_heavy_one = std::this_thread::get_id();
      EXPECT_TRUE(threads.empty());  // while the others wait, all threads are there for it
      return;
    }
    threads.insert(std::this_thread::get_id());
    both.notify_all();
    both.wait_for(lock, std::chrono::seconds(30), [&] { return threads.size() == 2; });
  });
  EXPECT_EQ(threads.size(), 2);
  EXPECT_EQ(of_the_heavy_one, std::this_thread::get_id());
}

TEST(Ops, SayWhatDoesNotFit) {
  Dice dice(7);
  const auto ops = default_ops(1);
  const Tensor x = random_tensor(2, 64, dice), half = Tensor::zeros(DType::f16, {2, 64}), flat = x.reshape({128});
  const Tensor weight = Tensor::zeros(DType::f32, {64});
  const auto error = [](const auto& action) { return error_of(action); };
  EXPECT_EQ(error([&] { ops->rms_norm(half, weight, 0); }), "rms_norm: x must be F32 of rank 2, got F16 [2, 64]");
  EXPECT_EQ(error([&] { ops->rms_norm(x, x, 0); }), "rms_norm: weight must be F32 of rank 1, got F32 [2, 64]");
  EXPECT_EQ(error([&] { ops->rms_norm(x, flat, 0); }), "rms_norm: length of weight is 128, expected 64");
  EXPECT_EQ(error([&] { ops->swiglu(flat, flat); }), "swiglu: gate must be F32 of rank 2, got F32 [128]");
  EXPECT_EQ(error([&] { ops->swiglu(x, x.rows(0, 1)); }), "swiglu: up must be F32 [2, 64], got F32 [1, 64]");
  EXPECT_EQ(error([&] { ops->add(half, x); }), "add: a must be F32 of rank 2, got F16 [2, 64]");
  EXPECT_EQ(error([&] { ops->add(x, x.reshape({4, 32})); }), "add: b must be F32 [2, 64], got F32 [4, 32]");
  EXPECT_EQ(error([&] { ops->softmax(half); }), "softmax: x must be F32 of rank 2, got F16 [2, 64]");
  const std::vector<int32_t> rows = {1, 2}, negative = {-1};
  EXPECT_EQ(error([&] { ops->gather_rows(x, rows); }), "gather_rows: a row is 2, expected 0 to 1");
  EXPECT_EQ(error([&] { ops->gather_rows(x, negative); }), "gather_rows: a row is -1, expected 0 to 1");
  EXPECT_EQ(error([&] { ops->gather_rows(half, rows); }), "gather_rows: x must be F32 of rank 2, got F16 [2, 64]");

  const Tensor table = Tensor::zeros(DType::f32, {10, 16});
  const std::vector<int32_t> positions = {0, 9}, one = {0}, far = {0, 10};
  EXPECT_EQ(error([&] { ops->rope(half, table, table, positions); }), "rope: x must be F32 of rank 2, got F16 [2, 64]");
  EXPECT_EQ(error([&] { ops->rope(x, weight, table, positions); }), "rope: cos must be F32 of rank 2, got F32 [64]");
  EXPECT_EQ(error([&] { ops->rope(x, table, table.rows(0, 9), positions); }),
            "rope: sin must be F32 [10, 16], got F32 [9, 16]");
  EXPECT_EQ(error([&] { ops->rope(x, table, table, one); }), "rope: number of positions is 1, expected 2");
  EXPECT_EQ(error([&] { ops->rope(x, table, table, far); }), "rope: a position is 10, expected 0 to 9");
  EXPECT_EQ(error([&] {
              ops->rope(x, Tensor::zeros(DType::f32, {10, 12}), Tensor::zeros(DType::f32, {10, 12}), positions);
            }),
            "rope: x [2, 64] does not consist of heads of 24, twice the width of cos");
  EXPECT_EQ(error([&] {
              ops->rope(x, Tensor::zeros(DType::f32, {10, 0}), Tensor::zeros(DType::f32, {10, 0}), positions);
            }),
            "rope: x [2, 64] does not consist of heads of 0, twice the width of cos");

  Weight embedding;
  embedding.rows = 10;
  embedding.cols = 16;
  embedding.data = table;
  const std::vector<int32_t> beyond = {3, 10};
  EXPECT_EQ(error([&] { ops->embedding(embedding, {}, beyond); }), "token 10 is outside the vocabulary of 10");
  EXPECT_EQ(error([&] { ops->embedding(embedding, {}, negative); }), "token -1 is outside the vocabulary of 10");
  EXPECT_EQ(error([&] { ops->embedding(embedding, make_rotation(32, 1), one); }),
            "embedding: width of the rotation is 32, expected 16");
}

// Results live through the scope after theirs; equal steps get equal addresses.
TEST(Arena, TwoScopesTakeTurns) {
  Arena arena;
  const auto step = [&] {
    std::vector<std::pair<std::byte*, size_t>> places;
    arena.begin_scope();
    for (const int64_t n : {1, 100, 300'000, 64, 0, 500'000, 7}) {
      Tensor x = arena.allocate(DType::f32, {n});
      EXPECT_EQ(reinterpret_cast<uintptr_t>(x.data<std::byte>()) % 64, 0u);
      std::memset(x.data<std::byte>(), 0, x.bytes());
      places.emplace_back(x.data<std::byte>(), x.bytes());
    }
    return places;
  };
  const auto first = step(), second = step(), third = step(), fourth = step();
  EXPECT_EQ(third, first);
  EXPECT_EQ(fourth, second);
  auto both = first;
  both.insert(both.end(), second.begin(), second.end());
  std::sort(both.begin(), both.end());
  for (size_t i = 1; i < both.size(); ++i) EXPECT_LE(both[i - 1].first + both[i - 1].second, both[i].first);
}

}  // namespace
}  // namespace turboquant
