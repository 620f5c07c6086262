#include "nn/attention.h"

namespace turboquant {

Tensor attend(Ops& ops, const Tensor& queries, const Tensor& keys, const Tensor& values, const AttentionShape& shape,
              const Step& step, size_t layer) {
  Tensor attended = ops.empty(DType::f32, queries.shape());
  for (const SequenceRows& rows : step.sequences)
    rows.cache->layers[layer]->attend(ops, queries.rows(rows.begin, rows.end), keys.rows(rows.begin, rows.end),
                                      values.rows(rows.begin, rows.end), shape, attended.rows(rows.begin, rows.end));
  return attended;
}

Attention Attention::load(Loader& loader, const std::string& module, int64_t hidden_size, const AttentionShape& shape) {
  const int64_t q_width = shape.n_heads * shape.head_dim, kv_width = shape.n_kv_heads * shape.head_dim;
  Attention attention;
  attention.shape = shape;
  attention.q = loader.linear(module + ".q_proj", q_width, hidden_size);
  attention.k = loader.linear(module + ".k_proj", kv_width, hidden_size);
  attention.v = loader.linear(module + ".v_proj", kv_width, hidden_size);
  attention.o = loader.linear(module + ".o_proj", hidden_size, q_width);
  return attention;
}

Tensor Attention::forward(Ops& ops, const Tensor& x, const Step& step, const Rope& rope, size_t layer) const {
  const std::vector<Tensor> qkv = project(ops, x, {&q, &k, &v}, step.exact);
  const Tensor queries = rope.apply(ops, qkv[0], step.positions), keys = rope.apply(ops, qkv[1], step.positions);
  return project(ops, attend(ops, queries, keys, qkv[2], shape, step, layer), {&o}, step.exact).front();
}

}  // namespace turboquant
