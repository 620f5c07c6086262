#include "quant/original.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "cache/cache.h"
#include "cache/shared_memory.h"
#include "core/half.h"
#include "quant/kv_original.h"

namespace turboquant {
namespace {

constexpr int64_t kBlockTokens = 256;  // the original's caches grow by so many

/// Keys or values: how the vector of a head is coded, and where a block has those of its tokens.
struct Side {
  KvSide side;
  int bits;
  int64_t group, words, scales;  // of a head
  Rotation rotation;

  Side(KvSide kind, int b, int64_t head_dim, int64_t group_size)
      : side(kind),
        bits(b),
        group(original_kv_group(head_dim, group_size)),
        words(original_words(b, head_dim)),
        scales(head_dim / group),
        rotation(original_kv_rotation(kind, head_dim)) {}

  const char* words_name() const { return side == KvSide::keys ? "keys" : "values"; }
  const char* scales_name() const { return side == KvSide::keys ? "keys_scales" : "values_scales"; }
};

size_t head_bytes(int bits, int64_t head_dim, int64_t group) {
  return static_cast<size_t>(original_words(bits, head_dim)) * sizeof(uint32_t) +
         static_cast<size_t>(head_dim / group) * sizeof(uint16_t);
}

size_t block_bytes_of(const LayerMemory& memory, KvBits bits, int64_t group_size) {
  const int64_t group = original_kv_group(memory.head_dim, group_size);
  return static_cast<size_t>(kBlockTokens * memory.n_kv_heads) *
         (head_bytes(bits.keys, memory.head_dim, group) + head_bytes(bits.values, memory.head_dim, group));
}

// A block: words and scales of its keys, then of its values, [token][head][...] each. All is decoded into an
// uncompressed cache for each call, as the original does.
class OriginalCache final : public LayerCache {
 public:
  OriginalCache(const LayerMemory& memory, KvBits bits, int64_t group_size)
      : memory_(memory),
        sides_{{{KvSide::keys, bits.keys, memory.head_dim, group_size},
                {KvSide::values, bits.values, memory.head_dim, group_size}}},
        block_bytes_(block_bytes_of(memory, bits, group_size)) {}

  void attend(Ops& ops, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              Tensor out) override {
    grow(k.dim(0));
    for (int64_t i = 0; i < k.dim(0);) {
      const int64_t count = std::min(k.dim(0) - i, kBlockTokens - length_ % kBlockTokens);
      for (const Side& side : sides_) {
        const Tensor& x = side.side == KvSide::keys ? k : v;
        original_kv_encode(side.bits, side.group, side.rotation, x.data<float>() + i * memory_.width(),
                           count * memory_.n_kv_heads, words(side, length_), scales(side, length_));
      }
      length_ += count;
      i += count;
    }
    if (q.dim(0) == 0) return;
    const Tensor keys = ops.empty(DType::f32, {length_, memory_.width()}), values = ops.empty(DType::f32, keys.shape());
    read(ops, 0, keys, values);
    make_full_cache(memory_, DType::f16)->attend(ops, q, keys, values, shape, std::move(out));
  }

  int64_t length() const override { return length_; }
  size_t bytes() const override { return blocks_.size() * block_bytes_; }
  CacheFootprint footprint() const override {
    CacheFootprint total;
    for (const SharedMemory& block : blocks_) total += block.footprint();
    return total;
  }
  std::unique_ptr<LayerCache> fork() const override { return std::make_unique<OriginalCache>(*this); }
  int64_t reach(int64_t length) const override { return std::clamp<int64_t>(length, 0, length_); }
  bool goes_back() const override { return true; }
  void trim(int64_t length) override {
    check_reach(length);
    length_ = length;
    blocks_.resize(static_cast<size_t>((length + kBlockTokens - 1) / kBlockTokens));
  }

  void read(Ops& /*ops*/, int64_t begin, Tensor keys, Tensor values) const override {
    std::vector<uint16_t> halves(static_cast<size_t>(memory_.width()));
    for (int64_t i = 0; i < keys.dim(0); ++i)
      for (const Side& side : sides_) {
        original_kv_decode(side.bits, side.group, side.rotation, words(side, begin + i), scales(side, begin + i),
                           memory_.n_kv_heads, halves.data());
        float* to = (side.side == KvSide::keys ? keys : values).data<float>() + i * memory_.width();
        for (size_t d = 0; d < halves.size(); ++d) to[d] = half_to_float(halves[d]);
      }
  }

  LayerState save(Ops& /*ops*/) const override {
    LayerState state{length_, {}};
    if (length_ > 0) copy(state, true);
    return state;
  }
  void restore(Ops& /*ops*/, const LayerState& state) override {
    if (state.length == 0) return;
    for (const Side& side : sides_) {  // before any memory is taken
      state.tensor(side.words_name(), DType::u32, words_shape(side, state.length));
      state.tensor(side.scales_name(), DType::f16, scales_shape(side, state.length));
    }
    grow(state.length);
    length_ = state.length;
    LayerState source = state;
    copy(source, false);
  }

 private:
  Shape words_shape(const Side& side, int64_t tokens) const { return {tokens, memory_.n_kv_heads, side.words}; }
  Shape scales_shape(const Side& side, int64_t tokens) const { return {tokens, memory_.n_kv_heads, side.scales}; }

  void grow(int64_t tokens) {
    if (length_ % kBlockTokens != 0) blocks_.back().make_own();
    while (static_cast<int64_t>(blocks_.size()) * kBlockTokens < length_ + tokens) blocks_.emplace_back(block_bytes_);
  }

  // Between the blocks and the tensors of a state.
  void copy(LayerState& state, bool to_state) const {
    for (const Side& side : sides_) {
      if (to_state) {
        state.tensors[side.words_name()] = Tensor::zeros(DType::u32, words_shape(side, length_));
        state.tensors[side.scales_name()] = Tensor::zeros(DType::f16, scales_shape(side, length_));
      }
      auto* all_words = state.tensors[side.words_name()].data<uint32_t>();
      auto* all_scales = state.tensors[side.scales_name()].data<uint16_t>();
      const auto move = [&](void* in_state, void* in_block, size_t bytes) {
        std::memcpy(to_state ? in_state : in_block, to_state ? in_block : in_state, bytes);
      };
      for (int64_t i = 0; i < length_; ++i) {
        const int64_t n_words = memory_.n_kv_heads * side.words, n_scales = memory_.n_kv_heads * side.scales;
        move(all_words + i * n_words, words(side, i), static_cast<size_t>(n_words) * sizeof(uint32_t));
        move(all_scales + i * n_scales, scales(side, i), static_cast<size_t>(n_scales) * sizeof(uint16_t));
      }
    }
  }

  std::byte* side_of(const Side& side, int64_t token) const {
    std::byte* block = blocks_[static_cast<size_t>(token / kBlockTokens)].data();
    if (side.side == KvSide::keys) return block;
    const Side& keys = sides_.front();
    return block +
           static_cast<size_t>(kBlockTokens * memory_.n_kv_heads) * head_bytes(keys.bits, memory_.head_dim, keys.group);
  }
  uint32_t* words(const Side& side, int64_t token) const {
    return reinterpret_cast<uint32_t*>(side_of(side, token)) + token % kBlockTokens * memory_.n_kv_heads * side.words;
  }
  uint16_t* scales(const Side& side, int64_t token) const {
    auto* all = reinterpret_cast<uint32_t*>(side_of(side, token)) + kBlockTokens * memory_.n_kv_heads * side.words;
    return reinterpret_cast<uint16_t*>(all) + token % kBlockTokens * memory_.n_kv_heads * side.scales;
  }

  LayerMemory memory_;
  std::array<Side, 2> sides_;
  size_t block_bytes_;
  int64_t length_ = 0;
  std::vector<SharedMemory> blocks_;
};

}  // namespace

std::unique_ptr<LayerCache> make_original_cache(const LayerMemory& memory, KvBits bits, int64_t group_size) {
  return std::make_unique<OriginalCache>(memory, bits, group_size);
}

size_t original_cache_bytes(const LayerMemory& memory, KvBits bits, int64_t group_size, int64_t tokens) {
  return static_cast<size_t>((tokens + kBlockTokens - 1) / kBlockTokens) * block_bytes_of(memory, bits, group_size);
}

}  // namespace turboquant
