#include <algorithm>
#include <cstring>
#include <string>

#include "cache/cache.h"
#include "cache/shared_memory.h"

namespace turboquant {
namespace {

// The newest full block stays exact, and the one that is filling. The one before them is kept in both forms, so that up
// to a block of tokens can be forgotten again.
constexpr int64_t kUndoBlocks = 1;

/// How many blocks are compressed after so many tokens.
int64_t compressed_blocks(int64_t tokens) { return std::max<int64_t>(tokens / kKvBlockTokens - 1, 0); }
/// The first block that is kept in exact form.
int64_t first_exact_block(int64_t tokens) { return std::max<int64_t>(compressed_blocks(tokens) - kUndoBlocks, 0); }
int64_t blocks_of(int64_t tokens) { return (tokens + kKvBlockTokens - 1) / kKvBlockTokens; }

size_t compressed_block_bytes(const LayerMemory& memory, KvBits bits) {
  return static_cast<size_t>(memory.n_kv_heads * kv_head_bytes(bits, memory.head_dim));
}

class CompressedCache final : public LayerCache {
 public:
  CompressedCache(const LayerMemory& memory, KvBits bits)
      : memory_(memory), code_(make_kv_code(bits, memory.head_dim)) {}

  // Block by block: what a query sees in which form depends on its position alone.
  void attend(Ops& ops, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              Tensor out) override {
    for (int64_t begin = 0; begin < k.dim(0);) {
      const int64_t end = std::min(k.dim(0), begin + kKvBlockTokens - length_ % kKvBlockTokens);
      if (length_ % kKvBlockTokens == 0)
        exact_.emplace_back(ops.exact_block_bytes(shape));
      else
        exact_.back().make_own();
      locate();
      ops.append_blocks(k.rows(begin, end), v.rows(begin, end), shape, blocks());
      length_ += end - begin;
      if (q.dim(0) > 0) ops.attention_blocks(q.rows(begin, end), shape, blocks(), out.rows(begin, end));
      compress(ops, shape);
      begin = end;
    }
  }

  int64_t length() const override { return length_; }
  size_t bytes() const override {
    size_t total = first_.bytes();
    for (const SharedMemory& block : compressed_) total += block.bytes();
    for (const SharedMemory& block : exact_) total += block.bytes();
    return total;
  }

  CacheFootprint footprint() const override {
    CacheFootprint total = first_.footprint();
    for (const SharedMemory& block : compressed_) total += block.footprint();
    for (const SharedMemory& block : exact_) total += block.footprint();
    return total;
  }

  std::unique_ptr<LayerCache> fork() const override { return std::make_unique<CompressedCache>(*this); }

  int64_t reach(int64_t length) const override {
    if (length >= length_) return length_;
    return compressed_blocks(length) >= first_exact_ ? std::max<int64_t>(length, 0) : 0;
  }

  bool goes_back() const override { return false; }

  void trim(int64_t length) override {
    check_reach(length);
    if (length == length_) return;
    length_ = length;
    if (length == 0) {
      first_exact_ = 0;
      first_ = SharedMemory();
    }
    compressed_.resize(static_cast<size_t>(compressed_blocks(length)));
    exact_.resize(static_cast<size_t>(blocks_of(length) - first_exact_));
  }

  void read(Ops& ops, int64_t begin, Tensor keys, Tensor values) const override {
    CompressedCache located(*this);
    located.locate();
    ops.read_blocks(memory_.shape(), located.blocks(), begin, std::move(keys), std::move(values));
  }

  LayerState save(Ops& ops) const override {
    LayerState state{length_, {}};
    if (length_ == 0) return state;
    // The exact blocks by themselves: the first of them may be compressed, too.
    CompressedCache exact(memory_, code_.bits);
    exact.exact_ = exact_;
    exact.length_ = length_ - first_exact_ * kKvBlockTokens;
    const auto save_tokens = [&](const CompressedCache& cache, int64_t count, const std::string& prefix) {
      const Tensor keys = Tensor::zeros(DType::f32, {count, memory_.width()}),
                   values = Tensor::zeros(DType::f32, keys.shape());
      cache.read(ops, 0, keys, values);
      state.tensors[prefix + "keys"] = in_type(keys, DType::f16);
      state.tensors[prefix + "values"] = in_type(values, DType::f16);
    };
    save_tokens(exact, exact.length_, "");
    if (compressed_.empty()) return state;
    save_tokens(*this, kKvFirstTokens, "first_");
    Tensor blocks = Tensor::zeros(DType::u8, blocks_shape(static_cast<int64_t>(compressed_.size())));
    std::byte* to = blocks.data<std::byte>();
    for (const SharedMemory& block : compressed_) {
      std::memcpy(to, block.data(), block.bytes());
      to += block.bytes();
    }
    state.tensors["blocks"] = blocks;
    return state;
  }

  void restore(Ops& ops, const LayerState& state) override {
    if (state.length == 0) return;
    const AttentionShape shape = memory_.shape();
    const int64_t exact = state.rows("keys"), compressed = compressed_blocks(state.length),
                  first = state.length - exact;  // the first exact token
    const Tensor &keys = state.tensor("keys", DType::f16, {exact, memory_.width()}),
                 &values = state.tensor("values", DType::f16, keys.shape());
    if (first % kKvBlockTokens != 0 || first < first_exact_block(state.length) * kKvBlockTokens ||
        first > compressed * kKvBlockTokens)
      throw Error("a cache of " + std::to_string(state.length) + " tokens cannot have " + std::to_string(exact) +
                  " exact ones");
    append_alone(ops, in_type(keys, DType::f32), in_type(values, DType::f32));
    first_exact_ = first / kKvBlockTokens;
    length_ = state.length;
    if (compressed == 0) return;
    const Tensor& blocks = state.tensor("blocks", DType::u8, blocks_shape(compressed));
    for (int64_t i = 0; i < compressed; ++i) {
      compressed_.emplace_back(compressed_block_bytes(memory_, code_.bits));
      std::memcpy(compressed_.back().data(), blocks.rows(i, i + 1).data<std::byte>(), compressed_.back().bytes());
    }
    // What the backend makes of first tokens, it makes of a block.
    const Shape first_shape{kKvFirstTokens, memory_.width()};
    CompressedCache beginning(memory_, code_.bits);
    beginning.append_alone(ops, in_type(state.tensor("first_keys", DType::f16, first_shape), DType::f32),
                           in_type(state.tensor("first_values", DType::f16, first_shape), DType::f32));
    const SharedMemory unused(compressed_block_bytes(memory_, code_.bits));
    first_ = SharedMemory(ops.first_tokens_bytes(shape));
    ops.compress_block(beginning.exact_.front().data(), shape, code_, unused.data(), first_.data());
  }

 private:
  Shape blocks_shape(int64_t count) const {
    return {count, static_cast<int64_t>(compressed_block_bytes(memory_, code_.bits))};
  }

  /// Tokens to the exact blocks of a cache without any, compressing nothing.
  void append_alone(Ops& ops, const Tensor& keys, const Tensor& values) {
    for (int64_t i = 0; i < blocks_of(keys.dim(0)); ++i) exact_.emplace_back(ops.exact_block_bytes(memory_.shape()));
    locate();
    ops.append_blocks(keys, values, memory_.shape(), blocks());
  }

  // Addresses of what attention reads.
  void locate() {
    compressed_at_.clear();
    for (const SharedMemory& block : compressed_) compressed_at_.push_back(block.data());
    exact_at_.clear();
    for (size_t i = compressed_.size() - static_cast<size_t>(first_exact_); i < exact_.size(); ++i)
      exact_at_.push_back(exact_[i].data());
  }

  KvBlocks blocks() const {
    return {&code_, compressed_.empty() ? nullptr : first_.data(), compressed_at_, exact_at_, length_};
  }

  void compress(Ops& ops, const AttentionShape& shape) {
    while (static_cast<int64_t>(compressed_.size()) < compressed_blocks(length_)) {
      const size_t block = compressed_.size();
      SharedMemory codes(compressed_block_bytes(memory_, code_.bits));
      if (block == 0) first_ = SharedMemory(ops.first_tokens_bytes(shape));
      ops.compress_block(exact_[block - static_cast<size_t>(first_exact_)].data(), shape, code_, codes.data(),
                         block == 0 ? first_.data() : nullptr);
      compressed_.push_back(std::move(codes));
    }
    const int64_t keep = std::max(first_exact_block(length_), first_exact_);  // after a trim, some are gone already
    exact_.erase(exact_.begin(), exact_.begin() + (keep - first_exact_));
    first_exact_ = keep;
  }

  LayerMemory memory_;
  KvCode code_;
  int64_t length_ = 0;
  SharedMemory first_;                    // the first tokens, exact; of a cache that has compressed any
  std::vector<SharedMemory> compressed_;  // blocks 0, 1, ...
  std::vector<SharedMemory> exact_;       // blocks first_exact_, ...
  int64_t first_exact_ = 0;
  std::vector<const std::byte*> compressed_at_;
  std::vector<std::byte*> exact_at_;
};

}  // namespace

std::unique_ptr<LayerCache> make_compressed_cache(const LayerMemory& memory, KvBits bits) {
  return std::make_unique<CompressedCache>(memory, bits);
}

size_t compressed_cache_bytes(const Ops& ops, const LayerMemory& memory, KvBits bits, int64_t tokens) {
  check_kv_heads(memory.head_dim);
  const AttentionShape shape = memory.shape();
  const int64_t compressed = compressed_blocks(tokens), exact = blocks_of(tokens) - first_exact_block(tokens);
  return static_cast<size_t>(compressed) * compressed_block_bytes(memory, bits) +
         static_cast<size_t>(exact) * ops.exact_block_bytes(shape) +
         (compressed > 0 ? ops.first_tokens_bytes(shape) : 0);
}

}  // namespace turboquant
