#include "nn/attention.h"

#include <vector>

namespace turboquant {

namespace {

// Every head of x F32 [tokens, heads * head_dim] normed by itself.
Tensor norm_heads(Ops& ops, const Tensor& x, const Tensor& weight, float eps) {
  if (!weight) return x;
  const int64_t head_dim = weight.dim(0);
  return ops.rms_norm(x.reshape({x.elements() / head_dim, head_dim}), weight, eps).reshape(x.shape());
}

}  // namespace

Tensor attend(Ops& ops, const Tensor& queries, const Tensor& keys, const Tensor& values, const AttentionShape& shape,
              const Step& step, size_t layer) {
  Tensor attended = ops.empty(DType::f32, queries.shape());
  std::vector<int64_t> weights;
  for (const SequenceRows& rows : step.sequences)
    weights.push_back((rows.end - rows.begin) * (rows.cache->layers[layer]->length() + rows.end - rows.begin));
  ops.each(weights, [&](Ops& own, int64_t i) {
    const SequenceRows& rows = step.sequences[static_cast<size_t>(i)];
    const auto part = [&](const Tensor& tensor) { return tensor.rows(rows.begin, rows.end); };
    rows.cache->layers[layer]->attend(own, part(queries), part(keys), part(values), shape, part(attended));
  });
  return attended;
}

Attention Attention::load(Loader& loader, const std::string& module, int64_t hidden_size, const AttentionShape& shape,
                          const AttentionParts& parts, float eps) {
  const int64_t q_width = shape.n_heads * shape.head_dim, kv_width = shape.n_kv_heads * shape.head_dim;
  Attention attention;
  attention.shape = shape;
  attention.q = loader.linear(module + ".q_proj", q_width, hidden_size);
  attention.k = loader.linear(module + ".k_proj", kv_width, hidden_size);
  attention.v = loader.linear(module + ".v_proj", kv_width, hidden_size);
  attention.o = loader.linear(module + ".o_proj", hidden_size, q_width);
  if (parts.qk_norms) {
    attention.q_norm = loader.vector(module + ".q_norm.weight", shape.head_dim);
    attention.k_norm = loader.vector(module + ".k_norm.weight", shape.head_dim);
    attention.eps = eps;
  }
  if (parts.sinks) attention.shape.sinks = loader.vector(module + ".sinks", shape.n_heads);
  return attention;
}

Tensor Attention::forward(Ops& ops, const Tensor& x, const Step& step, const Rope& rope, size_t layer) const {
  const std::vector<Tensor> qkv = project(ops, x, {&q, &k, &v}, step.exact);
  const Tensor queries = rope.apply(ops, norm_heads(ops, qkv[0], q_norm, eps), step.positions);
  const Tensor keys = rope.apply(ops, norm_heads(ops, qkv[1], k_norm, eps), step.positions);
  return project(ops, attend(ops, queries, keys, qkv[2], shape, step, layer), {&o}, step.exact).front();
}

}  // namespace turboquant
