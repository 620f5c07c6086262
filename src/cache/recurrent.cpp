#include "cache/cache.h"

namespace turboquant {

// A model that asks its cache for a kind of attention that it did not make it for is at fault, not the input.
// NOLINTBEGIN(performance-unnecessary-value-param): the signature is that of the kinds that do write `out`
void LayerCache::attend(Ops& /*ops*/, const Tensor& /*q*/, const Tensor& /*k*/, const Tensor& /*v*/,
                        const AttentionShape& /*shape*/, Tensor /*out*/) {
  throw Error("this layer's cache keeps no keys and values");
}

void LayerCache::recur(Ops& /*ops*/, const Tensor& /*qkv*/, const Tensor& /*conv*/, const DeltaGates& /*gates*/,
                       const DeltaShape& /*shape*/, Tensor /*out*/) {
  throw Error("this layer's cache keeps no state of linear attention");
}
// NOLINTEND(performance-unnecessary-value-param)

namespace {

class RecurrentCache final : public LayerCache {
 public:
  void recur(Ops& ops, const Tensor& qkv, const Tensor& conv, const DeltaGates& gates, const DeltaShape& shape,
             Tensor out) override {
    if (!delta_) {
      inputs_ = Tensor::zeros(DType::f32, {conv.dim(0) - 1, conv.dim(1)});
      delta_ = Tensor::zeros(DType::f32, {shape.n_value_heads, shape.state_floats()});
    }
    const Tensor mixed = ops.empty(DType::f32, qkv.shape());
    ops.conv1d(qkv, conv, inputs_, mixed);
    ops.gated_delta(mixed, gates, shape, length_, delta_, std::move(out));
    length_ += qkv.dim(0);
  }

  int64_t length() const override { return length_; }
  size_t bytes() const override { return delta_ ? inputs_.bytes() + delta_.bytes() : 0; }

 private:
  int64_t length_ = 0;
  Tensor inputs_;  // F32 [taps - 1, channels], of the convolution
  Tensor delta_;   // F32 [n_value_heads, DeltaShape::state_floats()]
};

}  // namespace

std::unique_ptr<LayerCache> make_recurrent_cache() { return std::make_unique<RecurrentCache>(); }

}  // namespace turboquant
