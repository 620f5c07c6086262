// Attention over compressed keys and values: the kernels against the scalar one, the op against double precision on
// what the blocks stand for, and bit for bit the same however the tokens came in.
#include "ops/cpu/cpu_ops.h"
#include "ops/support.h"
#include "quant/fixture.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

constexpr KvBits kAllBits[] = {{4, 3}, {3, 3}, {2, 4}, {8, 2}, {4, 8}};

/// One KV head's blocks with normal keys and values, and queries.
struct Blocks {
  KvBits bits;
  int64_t dim, rows;
  std::vector<std::vector<uint8_t>> memory;
  std::vector<const uint8_t*> blocks;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> sum;

  Blocks(KvBits b, int64_t d, int64_t count, int64_t r, Dice& dice) : bits(b), dim(d), rows(r) {
    for (int64_t i = 0; i < count; ++i) {
      memory.emplace_back(static_cast<size_t>(kv_head_bytes(bits, dim)));
      kv_encode(KvSide::keys, bits.keys, dice.normals(64 * dim, 2).data(), dim, memory.back().data());
      kv_encode(KvSide::values, bits.values, dice.normals(64 * dim).data(), dim,
                memory.back().data() + kv_side_bytes(bits.keys, dim));
      blocks.push_back(memory.back().data());
    }
    q = dice.int8s(rows * dim);
    for (int64_t i = 0; i < rows; ++i) {
      scale.push_back(0.02F / std::sqrt(static_cast<float>(dim)));
      int32_t total = 0;
      for (int64_t k = 0; k < dim; ++k) total += q[static_cast<size_t>(i * dim + k)];
      sum.push_back(total);
    }
  }

  struct Result {
    std::vector<float> maximum, sum, values;
  };
  Result attend(CpuLevel level, int64_t hidden, float softcap = 0, bool with_panel = false) const {
    const auto count = static_cast<int64_t>(memory.size());
    Guarded<float> results(rows * (kKeyLanes + dim));
    Guarded<uint8_t> panel(2 * count * kKvBlockTokens * dim);
    kernels(level).attend_blocks({bits.keys, bits.values, dim, count, blocks.data(), hidden, rows, q.data(),
                                  scale.data(), sum.data(), results.data(), softcap,
                                  with_panel ? panel.data() : nullptr});
    Result result;
    for (int64_t i = 0; i < rows; ++i) {
      const float* row = results.data() + i * (kKeyLanes + dim);
      result.maximum.push_back(row[0]);
      result.sum.push_back(row[1]);
      result.values.insert(result.values.end(), row + kKeyLanes, row + kKeyLanes + dim);
    }
    return result;
  }
};

TEST(AttendBlocks, FastKernelsEqualTheScalarOne) {
  Dice dice(1);
  for (const int64_t dim : {16, 32, 48, 64, 80, 96, 128, 256})
    for (const KvBits bits : kAllBits) {
      const Blocks blocks(bits, dim, dice.between(1, 3), dice.between(1, 8), dice);
      const int64_t hidden = dice.one_of({0, 0, 16, 5});
      const auto softcap = static_cast<float>(dice.one_of({0, 3}));
      const Blocks::Result expected = blocks.attend(CpuLevel::scalar, hidden, softcap);
      for (const CpuLevel level : available_cpu_levels()) {
        const Blocks::Result result = blocks.attend(level, hidden, softcap);
        for (int64_t i = 0; i < blocks.rows; ++i) {
          const auto at = static_cast<size_t>(i);
          ASSERT_NEAR(result.maximum[at], expected.maximum[at], 1e-4) << name(level) << to_string(bits) << " " << dim;
          ASSERT_NEAR(result.sum[at] / expected.sum[at], 1, 1e-3);
          for (int64_t d = 0; d < dim; ++d)
            ASSERT_NEAR(result.values[static_cast<size_t>(i * dim + d)] / result.sum[at],
                        expected.values[static_cast<size_t>(i * dim + d)] / expected.sum[at], 1.5e-3)
                << name(level) << to_string(bits) << " " << dim;
        }
      }
    }
}

// Decoded once for many rows or again for every few: the same to the last bit.
TEST(AttendBlocks, APanelChangesNothing) {
  Dice dice(6);
  for (const CpuLevel level : available_cpu_levels())
    for (const int64_t dim : {16, 32, 48, 64, 80, 96, 128, 256})
      for (const KvBits bits : kAllBits) {
        const Blocks blocks(bits, dim, dice.between(1, 3), dice.between(1, 21), dice);
        const Blocks::Result each = blocks.attend(level, 16), once = blocks.attend(level, 16, 0, true);
        EXPECT_EQ(each.maximum, once.maximum) << name(level) << to_string(bits) << " " << dim;
        EXPECT_EQ(each.sum, once.sum) << name(level) << to_string(bits) << " " << dim;
        EXPECT_EQ(each.values, once.values) << name(level) << to_string(bits) << " " << dim;
      }
}

TEST(AttendBlocks, ARowDoesNotDependOnTheOthers) {
  Dice dice(2);
  for (const CpuLevel level : available_cpu_levels()) {
    Blocks blocks({4, 3}, 64, 2, 8, dice);
    const Blocks::Result all = blocks.attend(level, 16);
    for (blocks.rows = 1; blocks.rows < 8; ++blocks.rows) {
      const Blocks::Result some = blocks.attend(level, 16);
      EXPECT_TRUE(std::equal(some.values.begin(), some.values.end(), all.values.begin()));
      EXPECT_TRUE(std::equal(some.sum.begin(), some.sum.end(), all.sum.begin()));
    }
  }
}

/// A layer of one sequence whose blocks are compressed as soon as a full one stands behind them.
class CompressingSequence {
 public:
  CompressingSequence(CpuOps& ops, const AttentionShape& shape, KvBits bits)
      : ops_(ops), shape_(shape), code_(make_kv_code(bits, shape.head_dim)) {}

  /// Tokens of one block at most.
  void attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
    if (length_ % kKvBlockTokens == 0) {
      exact_.push_back(Tensor::zeros(DType::u8, {static_cast<int64_t>(ops_.exact_block_bytes(shape_))}));
      exact_at_.push_back(exact_.back().data<std::byte>());
    }
    ops_.append_blocks(k, v, shape_, blocks());
    length_ += k.dim(0);
    ops_.attention_blocks(q, shape_, blocks(), out);
    if (length_ % kKvBlockTokens != 0 || exact_.size() < 2) return;
    compressed_.push_back(Tensor::zeros(DType::u8, {shape_.n_kv_heads * kv_head_bytes(code_.bits, shape_.head_dim)}));
    compressed_at_.push_back(compressed_.back().data<std::byte>());
    const bool is_first = !first_;
    if (is_first) first_ = Tensor::zeros(DType::u8, {static_cast<int64_t>(ops_.first_tokens_bytes(shape_))});
    ops_.compress_block(exact_at_.front(), shape_, code_, compressed_.back().data<std::byte>(),
                        is_first ? first_.data<std::byte>() : nullptr);
    exact_.erase(exact_.begin());
    exact_at_.erase(exact_at_.begin());
  }

  KvBlocks blocks() const {
    return {&code_, first_ ? first_.data<std::byte>() : nullptr, compressed_at_, exact_at_, length_};
  }
  const KvCode& code() const { return code_; }

 private:
  CpuOps& ops_;
  AttentionShape shape_;
  KvCode code_;
  Tensor first_;
  std::vector<Tensor> compressed_, exact_;
  std::vector<const std::byte*> compressed_at_;
  std::vector<std::byte*> exact_at_;
  int64_t length_ = 0;
};

struct Inputs {
  AttentionShape shape;
  Tensor q, k, v;

  Inputs(int64_t heads, int64_t kv_heads, int64_t dim, int64_t tokens, Dice& dice)
      : shape{heads, kv_heads, dim, 1 / std::sqrt(static_cast<float>(dim)), 0, {}} {
    const auto random = [&](int64_t width, float size) {
      return from_float(dice.normals(tokens * width, size).data(), {tokens, width}, DType::f32);
    };
    q = random(heads * dim, 1);
    k = random(kv_heads * dim, 2);
    v = random(kv_heads * dim, 1);
  }
};

Tensor attend(CpuOps& ops, const Inputs& in, KvBits bits, int64_t chunk) {
  CompressingSequence sequence(ops, in.shape, bits);
  Tensor out = Tensor::zeros(DType::f32, in.q.shape());
  for (int64_t begin = 0; begin < in.q.dim(0);) {
    const int64_t end = std::min({begin + chunk, (begin / kKvBlockTokens + 1) * kKvBlockTokens, in.q.dim(0)});
    ops.begin_scope();
    sequence.attend(in.q.rows(begin, end), in.k.rows(begin, end), in.v.rows(begin, end), out.rows(begin, end));
    begin = end;
  }
  return out;
}

/// Keys or values as the last token sees them: of the first tokens and of the newest two blocks exact, else coded.
Tensor seen(const Tensor& x, KvSide side, const KvCode& code, int64_t heads, int64_t dim) {
  Tensor result = to_float(from_float(x.data<float>(), x.shape(), DType::f16));
  const int bits = side == KvSide::keys ? code.bits.keys : code.bits.values;
  const Rotation& rotation = side == KvSide::keys ? code.keys : code.values;
  std::vector<uint8_t> block(static_cast<size_t>(kv_side_bytes(bits, dim)));
  std::vector<float> rows(static_cast<size_t>(kKvBlockTokens * dim));
  for (int64_t b = 0; (b + 2) * kKvBlockTokens < x.dim(0); ++b)
    for (int64_t head = 0; head < heads; ++head) {
      const auto at = [&](int64_t t) { return result.data<float>() + ((b * kKvBlockTokens + t) * heads + head) * dim; };
      for (int64_t t = 0; t < kKvBlockTokens; ++t) rotate(rotation, at(t), rows.data() + t * dim);
      kv_encode(side, bits, rows.data(), dim, block.data());
      kv_decode(side, bits, block.data(), dim, rows.data());
      for (int64_t t = b == 0 ? kKvFirstTokens : 0; t < kKvBlockTokens; ++t)
        rotate_inverse(rotation, rows.data() + t * dim, at(t));
    }
  return result;
}

TEST(AttentionBlocks, LastTokenAgainstDoublePrecision) {
  Dice dice(3);
  for (const CpuLevel level : available_cpu_levels())
    for (const int64_t dim : {64, 80, 96, 128, 256})
      for (const int64_t tokens : {1, 128, 130, 200, is_slow(level) ? 300 : 700})
        for (const bool sinks : {false, true}) {
          if (sinks != (dice.between(0, 1) == 1) || (dim > 80 && tokens != 200)) continue;
          Inputs in(6, 2, dim, tokens, dice);
          if (sinks) in.shape.sinks = from_float(dice.normals(6, 2).data(), {6}, DType::f32);
          in.shape.softcap = static_cast<float>(dice.one_of({0, 3}));
          const KvBits bits = kAllBits[dice.between(0, 4)];
          CpuOps ops(std::make_shared<ThreadPool>(2), level);
          const Tensor out = attend(ops, in, bits, 64);
          const KvCode code = make_kv_code(bits, dim);
          const Tensor keys = seen(in.k, KvSide::keys, code, 2, dim), values = seen(in.v, KvSide::values, code, 2, dim);
          for (int64_t head = 0; head < 6; ++head) {
            const int64_t kv = head / 3 * dim, at = ((tokens - 1) * 6 + head) * dim;
            const SoftmaxAttention expected = softmax_attention(
                in.q.data<float>() + at, [&](int64_t t) { return keys.data<float>() + t * 2 * dim + kv; },
                [&](int64_t t) { return values.data<float>() + t * 2 * dim + kv; }, tokens, dim,
                static_cast<double>(in.shape.scale), static_cast<double>(in.shape.softcap));
            const double share =
                sinks ? expected.share_beside(static_cast<double>(in.shape.sinks.data<float>()[head])) : 1;
            // The query is rounded to int8: 1 / 127 of its largest value, 0.3 steps off on average.
            for (int64_t d = 0; d < dim; ++d)
              ASSERT_NEAR(out.data<float>()[at + d], share * expected.values[static_cast<size_t>(d)], 0.03)
                  << tokens << " tokens, " << name(level) << ", " << to_string(bits) << ", dim " << dim;
          }
        }
}

TEST(AttentionBlocks, TheSameInAnyPiecesAndThreads) {
  Dice dice(4);
  for (const CpuLevel level : available_cpu_levels())
    for (const int64_t kv_heads : {2, 1}) {  // of 4 and of 8 rows a token
      const Inputs in(8, kv_heads, 64, is_slow(level) ? 200 : 700 * kv_heads, dice);
      CpuOps one(std::make_shared<ThreadPool>(1), level), three(std::make_shared<ThreadPool>(3), level);
      const Tensor whole = attend(one, in, {4, 3}, 64);
      EXPECT_TRUE(same_bytes(whole, attend(three, in, {4, 3}, 64)));
      for (const int64_t chunk : {1, 3, 17})
        EXPECT_TRUE(same_bytes(whole, attend(three, in, {4, 3}, chunk))) << name(level) << ", chunks of " << chunk;
    }
}

TEST(AttentionBlocks, Errors) {
  Dice dice(5);
  CpuOps ops(std::make_shared<ThreadPool>(1), CpuLevel::scalar);
  Inputs in(2, 1, 16, 3, dice);
  const KvCode code = make_kv_code({4, 3}, 16);
  const Tensor out = Tensor::zeros(DType::f32, in.q.shape());
  const auto contains = [&](const AttentionShape& shape, const KvBlocks& cache, const char* what) {
    EXPECT_NE(error_of([&] { ops.attention_blocks(in.q, shape, cache, out); }).find(what), std::string::npos) << what;
  };
  contains(in.shape, {&code, nullptr, {}, {}, 3}, "do not fit 0 blocks of 64");
  AttentionShape window = in.shape;
  window.window = 8;
  contains(window, {}, "sliding window");
  std::vector<std::byte> memory(100000);
  const std::byte* compressed[] = {memory.data()};
  std::byte* exact[] = {memory.data()};
  contains(in.shape, {&code, memory.data(), compressed, exact, 66}, "behind all compressed tokens");
  contains(in.shape, {&code, nullptr, compressed, exact, 67}, "first tokens");
}

}  // namespace
}  // namespace turboquant
