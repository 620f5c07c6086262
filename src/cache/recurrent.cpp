#include <cstring>
#include <string>

#include "cache/cache.h"

namespace turboquant {
namespace {

Tensor copy_of(const Tensor& x) {
  if (!x) return x;
  Tensor copy = Tensor::zeros(x.dtype(), x.shape());
  std::memcpy(copy.data<std::byte>(), x.data<std::byte>(), x.bytes());
  return copy;
}

class RecurrentCache final : public LayerCache {
 public:
  explicit RecurrentCache(const LayerMemory& memory) : floats_(memory.state_floats) {}

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

  std::unique_ptr<LayerCache> fork() const override {
    auto copy = std::make_unique<RecurrentCache>(*this);
    copy->inputs_ = copy_of(inputs_);
    copy->delta_ = copy_of(delta_);
    return copy;
  }
  // A state tells nothing of the states before it.
  int64_t reach(int64_t length) const override { return length >= length_ ? length_ : 0; }
  bool goes_back() const override { return false; }
  void trim(int64_t length) override {
    check_reach(length);
    if (length == length_) return;
    length_ = 0;
    inputs_ = delta_ = Tensor();
  }

  LayerState save(Ops& /*ops*/) const override {
    LayerState state{length_, {}};
    if (delta_) state.tensors = {{"inputs", copy_of(inputs_)}, {"delta", copy_of(delta_)}};
    return state;
  }
  void restore(Ops& /*ops*/, const LayerState& state) override {
    if (state.length == 0) return;
    const auto inputs = state.tensors.find("inputs"), delta = state.tensors.find("delta");
    if (inputs == state.tensors.end() || delta == state.tensors.end()) throw Error("no tensors 'inputs' and 'delta'");
    for (const auto& [name, x] : state.tensors)
      if (x.dtype() != DType::f32 || x.shape().rank() != 2) throw Error("'" + name + "' is not F32 of two dimensions");
    if (inputs->second.elements() + delta->second.elements() != floats_)
      throw Error("'inputs' and 'delta' have " + std::to_string(inputs->second.elements() + delta->second.elements()) +
                  " values, expected " + std::to_string(floats_));
    length_ = state.length;
    inputs_ = copy_of(inputs->second);
    delta_ = copy_of(delta->second);
  }

 private:
  int64_t floats_;
  int64_t length_ = 0;
  Tensor inputs_;  // F32 [taps - 1, channels], of the convolution
  Tensor delta_;   // F32 [n_value_heads, DeltaShape::state_floats()]
};

}  // namespace

std::unique_ptr<LayerCache> make_recurrent_cache(const LayerMemory& memory) {
  return std::make_unique<RecurrentCache>(memory);
}

}  // namespace turboquant
