#include <algorithm>
#include <string>

#include "cache/cache.h"

namespace turboquant {
namespace {

class FullCache final : public LayerCache {
 public:
  explicit FullCache(DType dtype) : dtype_(dtype) {}

  void attend(Ops& ops, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              Tensor out) override {
    const int64_t tokens = k.dim(0), page_tokens = ops.page_tokens();
    page_bytes_ = ops.page_bytes(shape, dtype_);
    while (static_cast<int64_t>(pages_.size()) * page_tokens < length_ + tokens) {
      pages_.push_back(Tensor::zeros(DType::u8, {static_cast<int64_t>(page_bytes_)}));
      addresses_.push_back(pages_.back().data<std::byte>());
    }
    ops.append_kv(k, v, shape, {dtype_, addresses_, length_});
    length_ += tokens;
    ops.attention(q, shape, {dtype_, addresses_, length_}, std::move(out));
    if (shape.window > 0) drop_before(std::max<int64_t>(length_ - shape.window, 0) / page_tokens);
  }

  int64_t length() const override { return length_; }
  size_t bytes() const override { return (pages_.size() - dropped_) * page_bytes_; }

 private:
  // A sliding window needs no ring: pages that no later query can see are given back.
  void drop_before(int64_t page) {
    for (; dropped_ < static_cast<size_t>(page); ++dropped_) {
      pages_[dropped_] = Tensor();
      addresses_[dropped_] = nullptr;
    }
  }

  DType dtype_;
  int64_t length_ = 0;
  size_t page_bytes_ = 0, dropped_ = 0;
  std::vector<Tensor> pages_;
  std::vector<std::byte*> addresses_;
};

}  // namespace

std::unique_ptr<LayerCache> make_full_cache(DType dtype) {
  if (dtype != DType::f16 && dtype != DType::f32)
    throw Error("a full-precision cache is F16 or F32, not " + std::string(name(dtype)));
  return std::make_unique<FullCache>(dtype);
}

}  // namespace turboquant
