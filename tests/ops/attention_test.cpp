// Attention of the CPU backend over its pages: against double precision, and bit for bit the same however the tokens
// came in.
#include "ops/cpu/cpu_ops.h"
#include "ops/support.h"
#include "quant/fixture.h"

namespace turboquant {
namespace {

/// The pages of one layer of one sequence.
class Pages {
 public:
  Pages(const CpuOps& ops, const AttentionShape& shape, DType dtype, int64_t tokens) : dtype_(dtype) {
    for (int64_t t = 0; t < tokens; t += ops.page_tokens()) {
      memory_.push_back(Tensor::zeros(DType::u8, {static_cast<int64_t>(ops.page_bytes(shape, dtype))}));
      addresses_.push_back(memory_.back().data<std::byte>());
    }
  }
  KvPages with(int64_t length) const { return {dtype_, addresses_, length}; }
  /// Gives back the pages that lie before a position.
  void drop_before(int64_t position) {
    for (size_t page = 0; static_cast<int64_t>(page + 1) * kPageTokens <= position; ++page) {
      memory_[page] = Tensor();
      addresses_[page] = nullptr;
    }
  }

 private:
  DType dtype_;
  std::vector<Tensor> memory_;
  std::vector<std::byte*> addresses_;
};

struct Sequence {
  AttentionShape shape;
  DType dtype;
  Tensor queries, keys, values;  // all tokens

  Sequence(int64_t heads, int64_t kv_heads, int64_t dim, DType cache_type, int64_t tokens, Dice& dice,
           int64_t window = 0)
      : shape{heads, kv_heads, dim, 1 / std::sqrt(static_cast<float>(dim)), window}, dtype(cache_type) {
    const auto random = [&](int64_t width, float size) {
      return from_float(dice.normals(tokens * width, size).data(), {tokens, width}, DType::f32);
    };
    queries = random(heads * dim, 1);
    keys = random(kv_heads * dim, 2);
    values = random(kv_heads * dim, 1);
  }
  int64_t tokens() const { return queries.dim(0); }
};

/// Results of all tokens, in chunks of the sizes that `next_chunk(tokens left)` gives. Pages that no query can see any
/// more are gone.
template <typename NextChunk>
Tensor attend(CpuOps& ops, const Sequence& s, const NextChunk& next_chunk) {
  Pages pages(ops, s.shape, s.dtype, s.tokens());
  Tensor out = Tensor::zeros(DType::f32, s.queries.shape());
  for (int64_t begin = 0; begin < s.tokens();) {
    const int64_t end = begin + std::min(next_chunk(s.tokens() - begin), s.tokens() - begin);
    ops.begin_scope();
    ops.append_kv(s.keys.rows(begin, end), s.values.rows(begin, end), s.shape, pages.with(begin));
    ops.attention(s.queries.rows(begin, end), s.shape, pages.with(end), out.rows(begin, end));
    if (s.shape.window > 0) pages.drop_before(end - s.shape.window + 1);
    begin = end;
  }
  return out;
}

Tensor attend_at_once(CpuOps& ops, const Sequence& s) {
  return attend(ops, s, [](int64_t left) { return left; });
}

/// Keys or values as the cache stores them.
Tensor stored(const Tensor& x, DType dtype) { return to_float(from_float(x.data<float>(), x.shape(), dtype)); }

// Error of a result, which averages values of size 1, relative to 1 + the largest scale * |q| * |key|.
constexpr double kBound = 4e-7;

void expect_token_right(const Sequence& s, const Tensor& out, int64_t token, const std::string& what) {
  const Tensor keys = stored(s.keys, s.dtype), values = stored(s.values, s.dtype);
  const int64_t dim = s.shape.head_dim, width = s.shape.n_kv_heads * dim;
  const int64_t first = s.shape.window == 0 ? 0 : std::max<int64_t>(token + 1 - s.shape.window, 0);
  for (int64_t head = 0; head < s.shape.n_heads; ++head) {
    const int64_t kv = head / (s.shape.n_heads / s.shape.n_kv_heads) * dim, at = (token * s.shape.n_heads + head) * dim;
    const SoftmaxAttention expected = softmax_attention(
        s.queries.data<float>() + at, [&](int64_t t) { return keys.data<float>() + (first + t) * width + kv; },
        [&](int64_t t) { return values.data<float>() + (first + t) * width + kv; }, token + 1 - first, dim,
        s.shape.scale, s.shape.softcap);
    const double share =
        s.shape.sinks ? expected.share_beside(static_cast<double>(s.shape.sinks.data<float>()[head])) : 1;
    for (int64_t d = 0; d < dim; ++d)
      ASSERT_NEAR(out.data<float>()[at + d], share * expected.values[static_cast<size_t>(d)],
                  kBound * (1 + expected.largest_norm))
          << what << ", token " << token << ", head " << head;
  }
}

TEST(Attention, TokensSeeAllBeforeThem) {
  Dice dice(1);
  for (const CpuLevel level : available_cpu_levels())
    for (const DType dtype : {DType::f16, DType::f32})
      for (const int64_t group : {1, 3, 4})
        for (const int64_t length : {1, 17, 255, 256, 257, is_slow(level) ? 300 : 1100}) {
          const Sequence s(2 * group, 2, dice.one_of({16, 32, 48}), dtype, length, dice);
          CpuOps ops = ops_at(level, 2);
          const Tensor out = attend_at_once(ops, s);
          const std::string what = std::string(name(level)) + " " + std::string(name(dtype)) + ", " +
                                   std::to_string(length) + " tokens, group " + std::to_string(group);
          for (const int64_t token : {length - 1, length - 2, length / 2, int64_t{255}, int64_t{256}, int64_t{0}})
            if (token >= 0 && token < length) expect_token_right(s, out, token, what);
        }
}

// Scores up to three times the bound; with sinks, which it leaves as they are, the values shrink by their share.
TEST(Attention, BoundedScores) {
  Dice dice(6);
  for (const CpuLevel level : available_cpu_levels())
    for (const DType dtype : {DType::f16, DType::f32})
      for (const int64_t window : {0, 70}) {
        Sequence s(6, 2, 32, dtype, is_slow(level) ? 100 : 300, dice, window);
        s.shape.softcap = 4;
        CpuOps ops = ops_at(level, 2);
        const Tensor out = attend_at_once(ops, s);
        const std::string what = std::string(name(level)) + ", window " + std::to_string(window);
        for (const int64_t token : {int64_t{0}, int64_t{77}, s.tokens() - 1}) expect_token_right(s, out, token, what);
        EXPECT_TRUE(same_bytes(attend(ops, s, [](int64_t) { return int64_t{7}; }), out)) << what;
        Sequence free = s, with_sinks = s;
        free.shape.softcap = 0;
        EXPECT_FALSE(same_bytes(attend_at_once(ops, free), out)) << what;

        with_sinks.shape.sinks = from_float(dice.normals(6, 8).data(), {6}, DType::f32);
        expect_token_right(with_sinks, attend_at_once(ops, with_sinks), s.tokens() - 1, what + ", sinks");
      }
}

// One call, token by token, and random chunks, on one to three threads: all results of all tokens have the same bits.
TEST(Attention, ChunksAndThreadsDoNotMatter) {
  Dice dice(2);
  for (const CpuLevel level : available_cpu_levels())
    for (const DType dtype : {DType::f16, DType::f32})
      for (const int64_t group : {1, 3, 4}) {
        const Sequence s(2 * group, 2, 16, dtype, is_slow(level) ? 270 : 1100, dice);
        CpuOps single = ops_at(level, 1);
        const Tensor expected = attend_at_once(single, s);
        const std::string what =
            std::string(name(level)) + " " + std::string(name(dtype)) + ", group " + std::to_string(group);
        if (group == 3) {
          EXPECT_TRUE(same_bytes(attend(single, s, [](int64_t) { return int64_t{1}; }), expected)) << what;
        }
        for (const int threads : {1, 2, 3}) {
          CpuOps ops = ops_at(level, threads);
          const int64_t largest = dice.one_of({20, 300});
          const auto chunk = [&](int64_t) { return dice.between(1, dice.one_of({3, largest})); };
          EXPECT_TRUE(same_bytes(attend(ops, s, chunk), expected)) << what << ", " << threads << " threads";
        }
      }
}

// A query sees itself and the window - 1 tokens before it, in whatever chunks the tokens come; with sinks or without.
TEST(Attention, SlidingWindows) {
  Dice dice(5);
  for (const CpuLevel level : available_cpu_levels())
    for (const DType dtype : {DType::f16, DType::f32})
      for (const int64_t window : {1, 2, 63, 64, 200, 256, 257, 400, 5000}) {
        const int64_t group = dice.one_of({1, 3, 4}), length = is_slow(level) ? 300 : 900;
        Sequence s(2 * group, 2, 16, dtype, length, dice, window);
        if (dice.between(0, 1) == 1)
          s.shape.sinks = from_float(dice.normals(2 * group, 4).data(), {2 * group}, DType::f32);
        CpuOps single = ops_at(level, 1);
        const Tensor expected = attend_at_once(single, s);
        const std::string what = std::string(name(level)) + " " + std::string(name(dtype)) + ", window " +
                                 std::to_string(window) + ", group " + std::to_string(group);
        for (const int64_t token : {int64_t{0}, int64_t{1}, int64_t{255}, int64_t{256}, length / 2, length - 1})
          expect_token_right(s, expected, token, what);
        for (const int threads : {1, 2}) {
          CpuOps ops = ops_at(level, threads);
          const auto chunk = [&](int64_t) { return dice.between(1, dice.one_of({1, 3, 70})); };
          EXPECT_TRUE(same_bytes(attend(ops, s, chunk), expected)) << what << ", " << threads << " threads";
        }
      }
}

// Old contents of a page behind the last token, which a cache that starts again leaves there, do not show.
TEST(Attention, WhatIsBehindTheLastTokenDoesNotMatter) {
  Dice dice(3);
  for (const CpuLevel level : available_cpu_levels()) {
    const Sequence s(2, 1, 32, DType::f32, 70, dice);
    CpuOps ops = ops_at(level, 1);
    const Tensor expected = attend_at_once(ops, s);
    const Pages pages(ops, s.shape, s.dtype, 70);
    const KvPages all = pages.with(0);
    std::fill_n(reinterpret_cast<float*>(all.pages[0]), ops.page_bytes(s.shape, s.dtype) / sizeof(float), NAN);
    Tensor out = Tensor::zeros(DType::f32, s.queries.shape());
    ops.append_kv(s.keys, s.values, s.shape, all);
    ops.attention(s.queries, s.shape, pages.with(70), out);
    EXPECT_TRUE(same_bytes(out, expected)) << name(level);
  }
}

TEST(Attention, PagesHoldKeysAndValuesOfAllHeads) {
  const CpuOps ops = ops_at(CpuLevel::scalar, 1);
  EXPECT_EQ(ops.page_tokens(), 256);
  EXPECT_EQ(ops.page_bytes({6, 2, 64, 1, 0}, DType::f16), size_t{2} * 2 * 256 * 64 * 2);
  EXPECT_EQ(ops.page_bytes({6, 2, 64, 1, 0}, DType::f32), size_t{2} * 2 * 256 * 64 * 4);
}

TEST(Attention, SaysWhatDoesNotFit) {
  Dice dice(4);
  CpuOps ops = ops_at(detected_cpu_level(), 1);
  const Sequence s(4, 2, 32, DType::f16, 3, dice);
  const Pages pages(ops, s.shape, s.dtype, 3);
  const auto append = [&](const Tensor& keys, const Tensor& values, const AttentionShape& shape, const KvPages& cache) {
    return error_of([&] { ops.append_kv(keys, values, shape, cache); });
  };
  EXPECT_EQ(append(Tensor::zeros(DType::f16, {3, 64}), s.values, s.shape, pages.with(0)),
            "append_kv: keys must be F32 of rank 2, got F16 [3, 64]");
  EXPECT_EQ(append(Tensor::zeros(DType::f32, {3, 48}), s.values, s.shape, pages.with(0)),
            "append_kv: width of keys is 48, expected 64");
  EXPECT_EQ(append(s.keys, s.values.rows(0, 2), s.shape, pages.with(0)),
            "append_kv: values must be F32 [3, 64], got F32 [2, 64]");
  EXPECT_EQ(append(s.keys, s.values, {4, 2, 20, 1, 0}, pages.with(0)),
            "attention heads of 20 are not supported: head_dim must be a multiple of 16");
  EXPECT_EQ(append(s.keys, s.values, {5, 2, 32, 1, 0}, pages.with(0)),
            "append_kv: 5 heads do not share 2 key and value heads evenly");
  EXPECT_EQ(append(s.keys, s.values, s.shape, pages.with(254)), "append_kv: 257 tokens do not fit 1 pages of 256");
  KvPages wrong = pages.with(0);
  wrong.dtype = DType::bf16;
  EXPECT_EQ(append(s.keys, s.values, s.shape, wrong), "append_kv: a cache is F16 or F32, got BF16");

  Tensor out = Tensor::zeros(DType::f32, {3, 128});
  const auto attention = [&](const Tensor& queries, const KvPages& cache, const Tensor& result) {
    return error_of([&] { ops.attention(queries, s.shape, cache, result); });
  };
  EXPECT_EQ(attention(s.keys, pages.with(3), out), "attention: width of queries is 64, expected 128");
  EXPECT_EQ(attention(Tensor::zeros(DType::bf16, {3, 128}), pages.with(3), out),
            "attention: queries must be F32 of rank 2, got BF16 [3, 128]");
  EXPECT_EQ(attention(s.queries, pages.with(3), out.rows(0, 2)),
            "attention: out must be F32 [3, 128], got F32 [2, 128]");
  EXPECT_EQ(attention(s.queries, pages.with(2), out),
            "attention: 3 queries, but the cache holds 2 tokens: append their keys and values first");
  EXPECT_EQ(attention(s.queries, pages.with(300), out), "attention: 300 tokens do not fit 1 pages of 256");
}

}  // namespace
}  // namespace turboquant
