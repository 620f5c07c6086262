#include "nn/gated_attention.h"

namespace turboquant {

GatedAttention GatedAttention::load(Loader& loader, const std::string& module, int64_t hidden_size,
                                    const AttentionShape& shape, float eps, float norm_offset) {
  const int64_t q_width = shape.n_heads * shape.head_dim, kv_width = shape.n_kv_heads * shape.head_dim;
  GatedAttention attention;
  attention.shape = shape;
  attention.eps = eps;
  attention.q = loader.linear(module + ".q_proj", 2 * q_width, hidden_size);
  attention.k = loader.linear(module + ".k_proj", kv_width, hidden_size);
  attention.v = loader.linear(module + ".v_proj", kv_width, hidden_size);
  attention.o = loader.linear(module + ".o_proj", hidden_size, q_width);
  attention.q_norm = loader.norm(module + ".q_norm.weight", shape.head_dim, norm_offset);
  attention.k_norm = loader.norm(module + ".k_norm.weight", shape.head_dim, norm_offset);
  return attention;
}

Tensor GatedAttention::forward(Ops& ops, const Tensor& x, const Step& step, const Rope& rope, size_t layer) const {
  const std::vector<Tensor> qkv = project(ops, x, {&q, &k, &v}, step.exact);
  const int64_t dim = shape.head_dim;
  const Tensor gate = ops.slice_blocks(qkv[0], shape.n_heads, dim, 2 * dim);
  const auto turned = [&](const Tensor& heads, const Tensor& norm) {
    const Tensor normed = ops.rms_norm(heads.reshape({heads.elements() / dim, dim}), norm, eps);
    return rope.apply(ops, normed.reshape(heads.shape()), step.positions);
  };
  const Tensor queries = turned(ops.slice_blocks(qkv[0], shape.n_heads, 0, dim), q_norm), keys = turned(qkv[1], k_norm);
  const Tensor attended = attend(ops, queries, keys, qkv[2], shape, step, layer);
  return project(ops, ops.sigmoid_gate(attended, gate), {&o}, step.exact).front();
}

}  // namespace turboquant
