// Attention of the CPU backend over compressed keys and values.
//
// An exact block holds, for each KV head, keys [kKvBlockTokens / 16][head_dim][16] and then values
// [kKvBlockTokens][head_dim], F16, as a page does; the first tokens lie likewise. The context is cut into parts: the
// first tokens, spans of compressed blocks, exact blocks. Each part gives every query row a result of its own, and the
// results are merged in the order of the parts, whoever computed them (as in cpu_attention.cpp); those of spans before
// they are rotated back, once.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "core/half.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/expect.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

constexpr int64_t kSpanGroup = 4;        // spans that a thread goes through one after the other
constexpr int64_t kPanelRows = 128;      // most query rows for which codes are decoded once
constexpr int64_t kPiecesPerThread = 8;  // of query rows, at least, where there are enough

static_assert(kKvFirstTokens == kKeyLanes);  // one vector of keys a coordinate

void expect_blocks(const AttentionShape& shape, const KvBlocks& cache, int64_t tokens, const char* op) {
  if (shape.head_dim < 16 || shape.head_dim % 16 != 0 || shape.head_dim > kKvMaxHeadDim)
    throw Error("attention heads of " + std::to_string(shape.head_dim) +
                " cannot be compressed: head_dim must be a multiple of 16, at most " + std::to_string(kKvMaxHeadDim));
  if (shape.window != 0) throw Error(std::string(op) + ": layers with a sliding window are not compressed");
  if (shape.n_kv_heads < 1 || shape.n_heads % shape.n_kv_heads != 0)
    throw Error(std::string(op) + ": " + std::to_string(shape.n_heads) + " heads do not share " +
                std::to_string(shape.n_kv_heads) + " key and value heads evenly");
  const auto blocks = static_cast<int64_t>(cache.compressed.size() + cache.exact.size());
  if (tokens > blocks * kKvBlockTokens)
    throw Error(std::string(op) + ": " + std::to_string(tokens) + " tokens do not fit " + std::to_string(blocks) +
                " blocks of " + std::to_string(kKvBlockTokens));
}

int64_t exact_head_halves(int64_t dim) { return 2 * kKvBlockTokens * dim; }
int64_t first_head_halves(int64_t dim) { return 2 * kKvFirstTokens * dim; }

/// What all parts of one call share.
class Attend {
 public:
  Attend(const Kernels& kernels, const Tensor& queries, const AttentionShape& shape, const KvBlocks& cache, Tensor out)
      : kernels_(kernels),
        queries_(queries.data<float>()),
        shape_(shape),
        cache_(cache),
        out_(out.data<float>()),
        dim_(shape.head_dim),
        tokens_(queries.dim(0)),
        group_(shape.n_heads / shape.n_kv_heads),
        first_position_(cache.length - tokens_),
        compressed_(static_cast<int64_t>(cache.compressed.size())) {
    spans_ = (compressed_ + kSpanBlocks - 1) / kSpanBlocks;
    first_exact_ = spans_ == 0 ? 0 : 1 + spans_;
    const int64_t exact_tokens = cache.length - compressed_ * kKvBlockTokens;
    parts_ = first_exact_ + (exact_tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  }

  int64_t parts() const { return parts_; }
  /// Groups of parts: the exact ones, and kSpanGroup spans each.
  int64_t groups() const { return (spans_ + kSpanGroup - 1) / kSpanGroup + 1; }
  /// The first part of a group; of group groups(), the end.
  int64_t group_begin(int64_t group) const {
    if (group == groups()) return parts_;
    return group == 0 ? 0 : std::min(1 + group * kSpanGroup, first_exact_);
  }
  int64_t floats() const { return dim_ + kKeyLanes; }  // a result: maximum, sum, then the values in so many

  int64_t rows() const { return tokens_ * group_; }  // of a KV head

  /// Quantizes rows [begin, end) of all KV heads one after the other, rotated as the keys are.
  void prepare(int64_t begin, int64_t end, int8_t* q, float* scale, int32_t* sum) const {
    std::vector<float> rotated(static_cast<size_t>(dim_));
    for (int64_t i = begin; i < end; ++i) {
      rotate(cache_.code->keys, queries_ + offset(i / rows(), i % rows()), rotated.data());
      kernels_.quantize(rotated.data(), dim_, q + i * dim_, scale + i, sum + i);
      scale[i] *= shape_.scale;
    }
  }
  void use(const int8_t* q, const float* scale, const int32_t* sum) {
    q_ = q;
    q_scale_ = scale;
    q_sum_ = sum;
  }

  /// The panel that part() wants for so many rows.
  std::unique_ptr<uint8_t[]> make_panel(int64_t rows) const {
    if (spans_ == 0 || rows <= kAttendRows / 2) return nullptr;  // no kernel would use it
    return std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(2 * kSpanBlocks * kKvBlockTokens * dim_));
  }

  /// Rows [first, first + count) of a KV head over one part, results at `results`.
  void part(int64_t part, int64_t head, int64_t first, int64_t count, float* results, uint8_t* panel) const {
    if (part > 0 && part < first_exact_) return span(part - 1, head, first, count, results, panel);
    const bool is_first = part < first_exact_;
    const int64_t block = is_first ? 0 : part - first_exact_;
    const auto* base =
        reinterpret_cast<const uint16_t*>(is_first ? cache_.first : cache_.exact[static_cast<size_t>(block)]);
    for (int64_t i = 0; i < count; i += kAttendRows) {
      const int64_t some = std::min<int64_t>(kAttendRows, count - i);
      if (is_first)
        exact(base + head * first_head_halves(dim_), kKvFirstTokens, 0, head, first + i, some, results + i * floats());
      else
        exact(base + head * exact_head_halves(dim_), kKvBlockTokens, (compressed_ + block) * kKvBlockTokens, head,
              first + i, some, results + i * floats());
    }
  }

  /// A row's running results, in so many floats: over the exact parts, then over the compressed ones.
  int64_t total_floats() const { return 2 * floats(); }
  /// A sink is what was seen first: a score without a value.
  void start(int64_t head, int64_t row, float* total) const {
    std::fill(total, total + total_floats(), 0.0F);
    total[0] = shape_.sinks ? shape_.sinks.data<float>()[head * group_ + row % group_] : kNoScore;
    total[1] = shape_.sinks ? 1.0F : 0.0F;
    total[floats()] = kNoScore;
  }
  /// Parts must come in order.
  void add(int64_t part, const float* result, float* total) const {
    float* compressed = total + floats();
    const bool is_span = part > 0 && part < first_exact_;
    merge(is_span ? compressed : total, result);
    if (part != first_exact_ - 1) return;
    rotate_inverse(cache_.code->values, compressed + kKeyLanes, compressed + kKeyLanes);
    merge(total, compressed);
  }
  void finish(int64_t head, int64_t row, const float* total) const {
    float* o = out_ + offset(head, row);
    for (int64_t d = 0; d < dim_; ++d) o[d] = total[kKeyLanes + d] / total[1];
  }

 private:
  // Of a row of a KV head: token * group + head in the group.
  int64_t offset(int64_t head, int64_t row) const {
    return (row / group_ * shape_.n_heads + head * group_ + row % group_) * dim_;
  }

  void merge(float* total, const float* part) const {
    kernels_.attend_merge(total, total + 1, total + kKeyLanes, part[0], part[1], part + kKeyLanes, dim_);
  }

  /// At most kAttendRows rows.
  void exact(const uint16_t* base, int64_t tokens, int64_t position, int64_t head, int64_t first, int64_t count,
             float* results) const {
    std::array<const float*, kAttendRows> q{};
    std::array<int64_t, kAttendRows> limit{};
    std::array<float, kAttendRows> maximum{}, sum{};
    std::array<float*, kAttendRows> values{};
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      q[at] = queries_ + offset(head, first + i);
      limit[at] = std::clamp<int64_t>(first_position_ + (first + i) / group_ + 1 - position, 0, tokens);
      values[at] = results + i * floats() + kKeyLanes;
    }
    kernels_.attend_page_f16({base, base + tokens * dim_, dim_, shape_.scale, count, q.data(), limit.data(),
                              maximum.data(), sum.data(), values.data(), nullptr, shape_.softcap});
    for (int64_t i = 0; i < count; ++i) {
      results[i * floats()] = maximum[static_cast<size_t>(i)];
      results[i * floats() + 1] = sum[static_cast<size_t>(i)];
    }
  }

  /// This head's part of the blocks of a span; returns how many.
  int64_t locate(int64_t span, int64_t head, std::array<const uint8_t*, kSpanBlocks>& block) const {
    const int64_t begin = span * kSpanBlocks, count = std::clamp<int64_t>(compressed_ - begin, 0, kSpanBlocks);
    for (int64_t i = 0; i < count; ++i)
      block[static_cast<size_t>(i)] =
          reinterpret_cast<const uint8_t*>(cache_.compressed[static_cast<size_t>(begin + i)]) +
          head * kv_head_bytes(cache_.code->bits, dim_);
    return count;
  }

  void span(int64_t span, int64_t head, int64_t first, int64_t count, float* results, uint8_t* panel) const {
    const KvBits bits = cache_.code->bits;
    std::array<const uint8_t*, kSpanBlocks> block{}, next{};
    const int64_t blocks = locate(span, head, block), at = head * rows() + first;
    AttendBlocks call{
        bits.keys, bits.values,    dim_,          blocks,      block.data(), span == 0 ? kKvFirstTokens : 0,
        count,     q_ + at * dim_, q_scale_ + at, q_sum_ + at, results};
    call.softcap = shape_.softcap;
    call.panel = panel;
    if (count <= kAttendRows) {
      call.fetched = span % kSpanGroup != 0;
      if ((span + 1) % kSpanGroup != 0) {
        call.next = next.data();
        call.next_count = locate(span + 1, head, next);
      }
    }
    kernels_.attend_blocks(call);
  }

  const Kernels& kernels_;
  const float* queries_;
  const AttentionShape& shape_;
  const KvBlocks& cache_;
  float* out_;
  int64_t dim_, tokens_, group_, first_position_, compressed_;
  int64_t spans_ = 0, first_exact_ = 0, parts_ = 0;
  const int8_t* q_ = nullptr;
  const float* q_scale_ = nullptr;
  const int32_t* q_sum_ = nullptr;
};

}  // namespace

size_t CpuOps::exact_block_bytes(const AttentionShape& shape) const {
  return static_cast<size_t>(shape.n_kv_heads * exact_head_halves(shape.head_dim)) * sizeof(uint16_t);
}

size_t CpuOps::first_tokens_bytes(const AttentionShape& shape) const {
  return static_cast<size_t>(shape.n_kv_heads * first_head_halves(shape.head_dim)) * sizeof(uint16_t);
}

void CpuOps::append_blocks(const Tensor& keys, const Tensor& values, const AttentionShape& shape,
                           const KvBlocks& cache) {
  const int64_t dim = shape.head_dim, width = shape.n_kv_heads * dim;
  expect(keys, DType::f32, 2, "append_blocks", "keys");
  expect_blocks(shape, cache, cache.length + keys.dim(0), "append_blocks");
  expect_equal(keys.dim(1), width, "append_blocks", "width of keys");
  expect(values, DType::f32, keys.shape(), "append_blocks", "values");
  if (cache.length < static_cast<int64_t>(cache.compressed.size()) * kKvBlockTokens)
    throw Error("append_blocks: the new tokens lie in a compressed block");
  pool_.parallel_for(keys.dim(0), std::max<int64_t>(1, 2048 / width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t position = cache.length + i, token = position % kKvBlockTokens;
      const auto block = static_cast<size_t>(position / kKvBlockTokens) - cache.compressed.size();
      for (int64_t h = 0; h < shape.n_kv_heads; ++h) {
        auto* key_base = reinterpret_cast<uint16_t*>(cache.exact[block]) + h * exact_head_halves(dim);
        uint16_t* value_base = key_base + kKvBlockTokens * dim + token * dim;
        key_base += token / kKeyLanes * dim * kKeyLanes + token % kKeyLanes;
        const float* k = keys.data<float>() + i * width + h * dim;
        const float* v = values.data<float>() + i * width + h * dim;
        for (int64_t d = 0; d < dim; ++d) {
          key_base[d * kKeyLanes] = float_to_half(k[d]);
          value_base[d] = float_to_half(v[d]);
        }
      }
    }
  });
}

void CpuOps::compress_block(const std::byte* exact, const AttentionShape& shape, const KvCode& code,
                            std::byte* compressed, std::byte* first) {
  expect_blocks(shape, {}, 0, "compress_block");
  const int64_t dim = shape.head_dim, n = kKvBlockTokens * dim;
  pool_.parallel_for(2 * shape.n_kv_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / 2;
      const KvSide side = i % 2 == 0 ? KvSide::keys : KvSide::values;
      const auto* from = reinterpret_cast<const uint16_t*>(exact) + head * exact_head_halves(dim);
      auto* to = reinterpret_cast<uint8_t*>(compressed) + head * kv_head_bytes(code.bits, dim);
      auto* kept = first == nullptr ? nullptr : reinterpret_cast<uint16_t*>(first) + head * first_head_halves(dim);
      if (side == KvSide::values) {
        from += n;
        to += kv_side_bytes(code.bits.keys, dim);
        if (kept != nullptr) kept += kKvFirstTokens * dim;
      }
      if (kept != nullptr) std::memcpy(kept, from, static_cast<size_t>(kKvFirstTokens * dim) * sizeof(uint16_t));
      const Rotation& rotation = side == KvSide::keys ? code.keys : code.values;
      for (int64_t token = 0; token < kKvBlockTokens; ++token) {
        float* row = x.data() + token * dim;
        for (int64_t d = 0; d < dim; ++d)
          row[d] =
              half_to_float(side == KvSide::keys ? from[(token / kKeyLanes * dim + d) * kKeyLanes + token % kKeyLanes]
                                                 : from[token * dim + d]);
        rotate(rotation, row, row);
      }
      kv_encode_at(kernels_.level, side, side == KvSide::keys ? code.bits.keys : code.bits.values, x.data(), dim, to);
    }
  });
}

void CpuOps::read_blocks(const AttentionShape& shape, const KvBlocks& cache, int64_t begin, Tensor keys,
                         Tensor values) const {
  const int64_t dim = shape.head_dim, width = shape.n_kv_heads * dim, n = kKvBlockTokens * dim;
  expect(keys, DType::f32, 2, "read_blocks", "keys");
  expect_blocks(shape, cache, cache.length, "read_blocks");
  expect_equal(keys.dim(1), width, "read_blocks", "width of keys");
  expect(values, DType::f32, keys.shape(), "read_blocks", "values");
  const int64_t end = begin + keys.dim(0), compressed = static_cast<int64_t>(cache.compressed.size());
  if (begin < 0 || end > cache.length) throw Error("read_blocks: tokens that are not in the cache");
  if (end == begin) return;
  const int64_t first_block = begin / kKvBlockTokens, blocks = (end - 1) / kKvBlockTokens + 1 - first_block;
  // One head's keys or values of a block.
  const auto read = [&](int64_t block, int64_t head, KvSide side, std::vector<float>& x) {
    const bool is_keys = side == KvSide::keys;
    const auto halves = [&](const uint16_t* from, int64_t tokens) {  // exact ones
      if (!is_keys) from += tokens * dim;
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t d = 0; d < dim; ++d)
          x[static_cast<size_t>(t * dim + d)] =
              half_to_float(from[is_keys ? (t / kKeyLanes * dim + d) * kKeyLanes + t % kKeyLanes : t * dim + d]);
    };
    if (block >= compressed)
      return halves(reinterpret_cast<const uint16_t*>(cache.exact[static_cast<size_t>(block - compressed)]) +
                        head * exact_head_halves(dim),
                    kKvBlockTokens);
    const KvCode& code = *cache.code;
    const auto* codes = reinterpret_cast<const uint8_t*>(cache.compressed[static_cast<size_t>(block)]) +
                        head * kv_head_bytes(code.bits, dim) + (is_keys ? 0 : kv_side_bytes(code.bits.keys, dim));
    kv_decode(side, is_keys ? code.bits.keys : code.bits.values, codes, dim, x.data());
    for (int64_t t = 0; t < kKvBlockTokens; ++t)
      rotate_inverse(is_keys ? code.keys : code.values, x.data() + t * dim, x.data() + t * dim);
    if (block == 0)
      halves(reinterpret_cast<const uint16_t*>(cache.first) + head * first_head_halves(dim), kKvFirstTokens);
  };
  pool_.parallel_for(blocks * shape.n_kv_heads, 1, [&](int64_t from, int64_t to) {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = from; i < to; ++i) {
      const int64_t block = first_block + i / shape.n_kv_heads, head = i % shape.n_kv_heads;
      for (const KvSide side : {KvSide::keys, KvSide::values}) {
        read(block, head, side, x);
        float* out = (side == KvSide::keys ? keys : values).data<float>() + head * dim;
        for (int64_t t = 0; t < kKvBlockTokens; ++t) {
          const int64_t position = block * kKvBlockTokens + t;
          if (position >= begin && position < end)
            std::memcpy(out + (position - begin) * width, x.data() + t * dim, static_cast<size_t>(dim) * sizeof(float));
        }
      }
    }
  });
}

void CpuOps::attention_blocks(const Tensor& queries, const AttentionShape& shape, const KvBlocks& cache, Tensor out) {
  expect(queries, DType::f32, 2, "attention_blocks", "queries");
  expect_blocks(shape, cache, cache.length, "attention_blocks");
  expect_equal(queries.dim(1), shape.n_heads * shape.head_dim, "attention_blocks", "width of queries");
  expect(out, DType::f32, queries.shape(), "attention_blocks", "out");
  if (shape.sinks) expect(shape.sinks, DType::f32, Shape{shape.n_heads}, "attention_blocks", "sinks");
  const int64_t tokens = queries.dim(0), dim = shape.head_dim, heads = shape.n_kv_heads;
  const int64_t rows = tokens * shape.n_heads / heads;  // of one KV head
  if (cache.length - tokens < static_cast<int64_t>(cache.compressed.size()) * kKvBlockTokens)
    throw Error("attention_blocks: the queries do not lie behind all compressed tokens");
  if (cache.code == nullptr || (!cache.compressed.empty() && cache.first == nullptr))
    throw Error("attention_blocks: compressed blocks without their code or their first tokens");

  Attend attend(kernels_, queries, shape, cache, out);
  if (!cache.compressed.empty()) {
    const int64_t n = tokens * shape.n_heads;
    Tensor q = arena_.allocate(DType::i8, {n, dim}), scale = arena_.allocate(DType::f32, {n}),
           sum = arena_.allocate(DType::i32, {n});
    pool_.parallel_for(n, 64, [&](int64_t begin, int64_t end) {
      attend.prepare(begin, end, q.data<int8_t>(), scale.data<float>(), sum.data<int32_t>());
    });
    attend.use(q.data<int8_t>(), scale.data<float>(), sum.data<int32_t>());
  }
  const int64_t floats = attend.floats(), parts = attend.parts();
  if (rows <= kSharedRows && parts > 1) {  // decode: the threads share the parts of a head
    Tensor results = arena_.allocate(DType::f32, {heads, parts, rows, floats});
    const auto result = [&](int64_t head, int64_t part) {
      return results.data<float>() + (head * parts + part) * rows * floats;
    };
    const int64_t groups = attend.groups();
    pool_.parallel_for(heads * groups, 1, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<uint8_t[]> panel = attend.make_panel(rows);
      for (int64_t i = begin; i < end; ++i)
        for (int64_t head = i / groups, part = attend.group_begin(i % groups);
             part < attend.group_begin(i % groups + 1); ++part)
          attend.part(part, head, 0, rows, result(head, part), panel.get());
    });
    pool_.parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> total(static_cast<size_t>(attend.total_floats()));
      for (int64_t head = begin; head < end; ++head)
        for (int64_t row = 0; row < rows; ++row) {
          attend.start(head, row, total.data());
          for (int64_t part = 0; part < parts; ++part)
            attend.add(part, result(head, part) + row * floats, total.data());
          attend.finish(head, row, total.data());
        }
    });
    return;
  }
  // Prefill: a thread takes some rows of a head through all parts. The more rows, the less decoding for each; but all
  // threads should have some.
  const int64_t share = rows * heads / (kPiecesPerThread * pool_.size()) / kAttendRows * kAttendRows,
                piece = std::clamp<int64_t>(share, kAttendRows, kPanelRows), pieces = (rows + piece - 1) / piece;
  pool_.parallel_for(heads * pieces, 1, [&](int64_t begin, int64_t end) {
    const int64_t most = std::min(piece, rows);
    std::vector<float> totals(static_cast<size_t>(most * attend.total_floats())),
        result(static_cast<size_t>(most * floats));
    const std::unique_ptr<uint8_t[]> panel = attend.make_panel(most);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / pieces, first = i % pieces * piece, count = std::min(piece, rows - first);
      const auto total = [&](int64_t row) { return totals.data() + row * attend.total_floats(); };
      for (int64_t row = 0; row < count; ++row) attend.start(head, first + row, total(row));
      for (int64_t part = 0; part < parts; ++part) {
        attend.part(part, head, first, count, result.data(), panel.get());
        for (int64_t row = 0; row < count; ++row) attend.add(part, result.data() + row * floats, total(row));
      }
      for (int64_t row = 0; row < count; ++row) attend.finish(head, first + row, total(row));
    }
  });
}

}  // namespace turboquant
