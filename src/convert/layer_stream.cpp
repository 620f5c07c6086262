#include "convert/layer_stream.h"

namespace turboquant {
namespace {

Tensor copy(const Tensor& x) { return from_float(x.data<float>(), x.shape(), DType::f32); }

}  // namespace

std::string layer_prefix(int64_t layer) { return "model.layers." + std::to_string(layer) + "."; }

void LayerStream::embed(const std::vector<std::vector<int32_t>>& text) {
  load(0);
  for (const std::vector<int32_t>& tokens : text) states_.push_back(copy(model_->embed(tokens)));
}

bool LayerStream::run(size_t i, std::span<const int32_t> tokens,
                      const std::function<bool(std::span<const Product>)>& stop) {
  bool stopped = false;
  ops_->observe_products([&](std::span<const Product> products) {
    stopped = stopped || stop(products);
    return !stopped;
  });
  Cache cache = model_->make_cache();
  const SequenceTokens sequence{&cache, tokens};
  const Tensor x = model_->run_layer(0, states_[i], {&sequence, 1});
  ops_->observe_products({});
  if (!stopped) states_[i] = copy(x);
  return !stopped;
}

void LayerStream::forget(int64_t layer) {
  model_.reset();
  checkpoint_.forget(layer_prefix(layer));
}

}  // namespace turboquant
