#include <algorithm>
#include <cstring>
#include <string>

#include "cache/cache.h"
#include "cache/shared_memory.h"

namespace turboquant {
namespace {

class FullCache final : public LayerCache {
 public:
  FullCache(const LayerMemory& memory, DType dtype) : memory_(memory), dtype_(dtype) {}

  void attend(Ops& ops, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              Tensor out) override {
    append(ops, k, v);
    if (q.dim(0) > 0) ops.attention(q, shape, {dtype_, addresses_, length_}, std::move(out));
    if (memory_.window > 0) drop_before(std::max<int64_t>(length_ - memory_.window, 0) / page_tokens_);
  }

  int64_t length() const override { return length_; }
  size_t bytes() const override { return (pages_.size() - dropped_) * page_bytes_; }
  CacheFootprint footprint() const override {
    CacheFootprint total;
    for (const SharedMemory& page : pages_) total += page.footprint();
    return total;
  }

  std::unique_ptr<LayerCache> fork() const override { return std::make_unique<FullCache>(*this); }

  int64_t reach(int64_t length) const override {
    if (length >= length_) return length_;
    // The next token must find all of its window.
    const bool found = dropped_ == 0 || (length - memory_.window + 1) / page_tokens_ >= static_cast<int64_t>(dropped_);
    return found ? std::max<int64_t>(length, 0) : 0;
  }

  bool goes_back() const override { return memory_.window == 0; }

  void trim(int64_t length) override {
    check_reach(length);
    length_ = length;
    if (length == 0) dropped_ = 0;
    pages_.resize(page_tokens_ == 0 ? 0 : static_cast<size_t>((length + page_tokens_ - 1) / page_tokens_));
    addresses_.resize(pages_.size());
  }

  void read(Ops& ops, int64_t begin, Tensor keys, Tensor values) const override {
    ops.read_kv(memory_.shape(), {dtype_, addresses_, length_}, begin, std::move(keys), std::move(values));
  }

  LayerState save(Ops& ops) const override {
    if (length_ == 0) return {};
    const int64_t begin = static_cast<int64_t>(dropped_) * page_tokens_;
    const Tensor keys = Tensor::zeros(DType::f32, {length_ - begin, memory_.width()}),
                 values = Tensor::zeros(DType::f32, keys.shape());
    if (length_ > begin) read(ops, begin, keys, values);
    return {length_, {{"keys", in_type(keys, dtype_)}, {"values", in_type(values, dtype_)}}};
  }

  void restore(Ops& ops, const LayerState& state) override {
    if (state.length == 0) return;
    const int64_t kept = state.rows("keys");
    const Shape shape{kept, memory_.width()};
    const Tensor &keys = state.tensor("keys", dtype_, shape), &values = state.tensor("values", dtype_, shape);
    const int64_t dropped = state.length - kept;
    if (dropped < 0 || dropped % ops.page_tokens() != 0 ||
        (dropped > 0 && (memory_.window == 0 || kept < memory_.window - 1)))
      throw Error("a cache of " + std::to_string(state.length) + " tokens cannot have " + std::to_string(kept) +
                  " keys and values here");
    length_ = dropped;
    dropped_ = static_cast<size_t>(dropped / ops.page_tokens());
    pages_.resize(dropped_);
    append(ops, in_type(keys, DType::f32), in_type(values, DType::f32));
  }

 private:
  void append(Ops& ops, const Tensor& k, const Tensor& v) {
    const AttentionShape shape = memory_.shape();
    page_tokens_ = ops.page_tokens();
    page_bytes_ = ops.page_bytes(shape, dtype_);
    if (length_ % page_tokens_ != 0) pages_.back().make_own();
    while (static_cast<int64_t>(pages_.size()) * page_tokens_ < length_ + k.dim(0)) pages_.emplace_back(page_bytes_);
    addresses_.resize(pages_.size());
    for (size_t i = dropped_; i < pages_.size(); ++i) addresses_[i] = pages_[i].data();
    ops.append_kv(k, v, shape, {dtype_, addresses_, length_});
    length_ += k.dim(0);
  }

  // A sliding window needs no ring: pages that no later query can see are given back.
  void drop_before(int64_t page) {
    for (; dropped_ < static_cast<size_t>(page); ++dropped_) {
      pages_[dropped_] = SharedMemory();
      addresses_[dropped_] = nullptr;
    }
  }

  LayerMemory memory_;
  DType dtype_;
  int64_t length_ = 0, page_tokens_ = 0;
  size_t page_bytes_ = 0, dropped_ = 0;
  std::vector<SharedMemory> pages_;
  std::vector<std::byte*> addresses_;
};

}  // namespace

std::unique_ptr<LayerCache> make_full_cache(const LayerMemory& memory, DType dtype) {
  if (dtype != DType::f16 && dtype != DType::f32)
    throw Error("a full-precision cache is F16 or F32, not " + std::string(name(dtype)));
  return std::make_unique<FullCache>(memory, dtype);
}

size_t full_cache_bytes(const Ops& ops, const LayerMemory& memory, DType dtype, int64_t tokens) {
  const int64_t page = ops.page_tokens(), pages = (tokens + page - 1) / page,
                dropped = memory.window == 0 ? 0 : std::max<int64_t>(tokens - memory.window, 0) / page;
  return static_cast<size_t>(pages - dropped) * ops.page_bytes(memory.shape(), dtype);
}

}  // namespace turboquant
