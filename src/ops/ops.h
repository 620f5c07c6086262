// The one op interface: functions from tensors to tensors that every backend implements.
//
// Results lie in the backend's arena. A result lives until the second begin_scope() after it was made: a model begins a
// scope a layer, so that a layer may read what the layer before returned, and memory is bounded by two layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/thread_pool.h"
#include "quant/weight.h"

namespace turboquant {

/// An input as matrices read it: rotated, and as int8 where compressed matrices want it. Shared by all that read it.
struct Activations {
  int64_t tokens = 0, width = 0;
  Tensor x;      // F32 [tokens, width], rotated
  Tensor q;      // I8, packed for the backend's kernels; empty if exact
  Tensor scale;  // F32 [tokens]
  Tensor sum;    // I32 [tokens], sums of q
};

/// A matrix and, if it has one, its bias F32 [rows].
struct Projection {
  const Weight* weight = nullptr;
  const Tensor* bias = nullptr;
};

/// One of several products with inputs of their own.
struct Product {
  const Activations* x = nullptr;
  Projection projection;
  Tensor out;  // F32 [x->tokens, rows] to write to, made by empty(); without it the result is a new tensor
};

struct AttentionShape {
  int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  float scale = 0;
  int64_t window = 0;  // a query sees itself and the window - 1 tokens before it; 0: all
  Tensor sinks;        // F32 [n_heads]: a score of each head that the softmax counts, and that has no value; or empty
};

/// Keys and values of one layer of one sequence in pages of ops.page_tokens() tokens; the page layout is the backend's.
struct KvPages {
  DType dtype = DType::f16;           // F16 or F32
  std::span<std::byte* const> pages;  // each of ops.page_bytes(); null where no query can see any more
  int64_t length = 0;                 // tokens in all pages
};

class Ops {
 public:
  virtual ~Ops() = default;

  virtual void begin_scope() = 0;

  /// Rows of an embedding, rotated back where the table is stored rotated. ids [tokens] -> F32 [tokens, cols]
  virtual Tensor embedding(const Weight& table, const Rotation& rotation, std::span<const int32_t> ids) = 0;
  /// x / sqrt(mean(x^2) + eps) * weight over the last axis. F32 [tokens, width], F32 [width]
  virtual Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps) = 0;
  /// Rotates, and quantizes each token to int8 with one scale unless `exact`. F32 [tokens, width]
  virtual Activations prepare(const Tensor& x, const Rotation& rotation, bool exact) = 0;
  /// y = x W^T + bias for each of the projections, in one parallel region: F32 [tokens, rows] each. int8 products where
  /// the weight is tiled and the activations carry int8, else floating point on the decoded weights.
  virtual std::vector<Tensor> matmul(const Activations& x, std::span<const Projection> projections) = 0;
  /// The same for products whose inputs differ, such as those of a layer's routed experts, in one parallel region.
  virtual std::vector<Tensor> matmul_each(std::span<const Product> products) = 0;
  /// Chosen tokens of an input, as prepare() would have made them; of an int8 input without x.
  virtual Activations gather(const Activations& x, std::span<const int32_t> tokens) = 0;
  /// Rotary position embedding of every head: the two halves of a head are the pairs. x F32 [tokens, heads * head_dim],
  /// cos and sin F32 [positions, head_dim / 2], positions [tokens] index their rows.
  virtual Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::span<const int32_t> positions) = 0;
  /// silu(gate) * up
  virtual Tensor swiglu(const Tensor& gate, const Tensor& up) = 0;
  /// g * sigmoid(alpha * g) * (u + 1) with g = min(gate, limit) and u = up within -limit .. limit: gpt-oss's SwiGLU
  virtual Tensor clamped_swiglu(const Tensor& gate, const Tensor& up, float alpha, float limit) = 0;
  virtual Tensor add(const Tensor& a, const Tensor& b) = 0;
  /// Chosen rows of F32 [tokens, width].
  virtual Tensor gather_rows(const Tensor& x, std::span<const int32_t> rows) = 0;
  /// out[t] = sum over j of weights[t][j] * x[rows[t][j]], in the order of j. x F32 [any, width]; weights and rows
  /// [tokens, per_token] -> F32 [tokens, width]
  virtual Tensor weighted_rows(const Tensor& x, std::span<const int32_t> rows, std::span<const float> weights,
                               int64_t per_token) = 0;
  /// Probabilities over the last axis.
  virtual Tensor softmax(const Tensor& x) = 0;
  /// An uninitialized result, to be filled row by row by attention().
  virtual Tensor empty(DType dtype, Shape shape) = 0;

  /// Tokens and bytes of one page of keys and values.
  virtual int64_t page_tokens() const = 0;
  virtual size_t page_bytes(const AttentionShape& shape, DType dtype) const = 0;
  /// Writes keys and values of new tokens, F32 [tokens, n_kv_heads * head_dim], at positions length .. length + tokens.
  virtual void append_kv(const Tensor& keys, const Tensor& values, const AttentionShape& shape,
                         const KvPages& cache) = 0;
  /// Causal attention of one sequence: query i of `queries` F32 [tokens, n_heads * head_dim] sees the positions up to
  /// cache.length - tokens + i, within its window. Writes `out`, of the same shape.
  virtual void attention(const Tensor& queries, const AttentionShape& shape, const KvPages& cache, Tensor out) = 0;
};

/// The CPU backend on the threads of `pool`.
std::unique_ptr<Ops> make_cpu_ops(std::shared_ptr<ThreadPool> pool);

}  // namespace turboquant
