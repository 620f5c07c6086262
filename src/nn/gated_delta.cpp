#include "nn/gated_delta.h"

#include <cmath>
#include <vector>

namespace turboquant {

GatedDelta GatedDelta::load(Loader& loader, const std::string& module, int64_t hidden_size, const DeltaShape& shape,
                            int64_t taps, float eps) {
  GatedDelta layer;
  layer.shape = shape;
  layer.eps = eps;
  layer.qkv = loader.linear(module + ".in_proj_qkv", shape.channels(), hidden_size);
  layer.z = loader.linear(module + ".in_proj_z", shape.values(), hidden_size);
  layer.b = loader.linear(module + ".in_proj_b", shape.n_value_heads, hidden_size);
  layer.a = loader.linear(module + ".in_proj_a", shape.n_value_heads, hidden_size);
  layer.out = loader.linear(module + ".out_proj", hidden_size, shape.values());
  layer.conv = loader.depthwise(module + ".conv1d.weight", shape.channels(), taps);
  layer.dt_bias = loader.vector(module + ".dt_bias", shape.n_value_heads);
  layer.norm = loader.vector(module + ".norm.weight", shape.value_dim);
  const Tensor log_rate = loader.vector(module + ".A_log", shape.n_value_heads);
  layer.rate = Tensor::zeros(DType::f32, log_rate.shape());
  for (int64_t h = 0; h < shape.n_value_heads; ++h) layer.rate.data<float>()[h] = std::exp(log_rate.data<float>()[h]);
  return layer;
}

Tensor GatedDelta::forward(Ops& ops, const Tensor& x, const Step& step, size_t layer) const {
  const int64_t tokens = x.dim(0), heads = tokens * shape.n_value_heads;
  const std::vector<Tensor> inputs = project(ops, x, {&qkv, &z, &b, &a}, step.exact);
  const Tensor mixed = ops.empty(DType::f32, {tokens, shape.values()});
  std::vector<int64_t> weights;
  for (const SequenceRows& rows : step.sequences) weights.push_back(rows.end - rows.begin);
  ops.each(weights, [&](Ops& own, int64_t i) {
    const SequenceRows& rows = step.sequences[static_cast<size_t>(i)];
    const auto part = [&](const Tensor& tensor) { return tensor.rows(rows.begin, rows.end); };
    rows.cache->layers[layer]->recur(own, part(inputs[0]), conv, {part(inputs[3]), part(inputs[2]), rate, dt_bias},
                                     shape, part(mixed));
  });
  const Tensor normed = ops.rms_norm(mixed.reshape({heads, shape.value_dim}), norm, eps);
  return project(ops, ops.swiglu(inputs[1], normed.reshape(mixed.shape())), {&out}, step.exact).front();
}

}  // namespace turboquant
