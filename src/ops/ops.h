// The one op interface: functions from tensors to tensors that every backend implements.
//
// Results lie in the backend's arena. A result lives until the second begin_scope() after it was made: a model begins a
// scope a layer, so that a layer may read what the layer before returned, and memory is bounded by two layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/thread_pool.h"
#include "ops/delta.h"
#include "quant/kv.h"
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
  Tensor sinks = {};   // F32 [n_heads]: a score of each head that the softmax counts, and that has no value; or empty
  float softcap = 0;   // a token's score is softcap * tanh(score / softcap), that of a sink is not; 0: no such bound
};

/// Heads of a layer of linear attention by the gated delta rule. Each key head serves n_value_heads / n_key_heads value
/// heads in a row.
struct DeltaShape {
  int64_t n_key_heads = 0, n_value_heads = 0, key_dim = 0, value_dim = 0;

  int64_t keys() const { return n_key_heads * key_dim; }
  int64_t values() const { return n_value_heads * value_dim; }
  int64_t channels() const { return 2 * keys() + values(); }  // of a token's query, key and value, in this order
  /// Of each value head: the memory [key_dim, value_dim] at the start of the current chunk, and of the chunk's tokens
  /// the keys [key_dim, kDeltaChunk], the changes [kDeltaChunk, value_dim] and the sums of log decays [kDeltaChunk].
  int64_t state_floats() const { return key_dim * value_dim + kDeltaChunk * (key_dim + value_dim + 1); }
};

/// What the gated delta rule reads of a token beside query, key and value, and of its layer.
struct DeltaGates {
  Tensor a, b;           // F32 [tokens, n_value_heads]
  Tensor rate, dt_bias;  // F32 [n_value_heads]; rate is above 0
};

/// Keys and values of one layer of one sequence in pages of ops.page_tokens() tokens; the page layout is the backend's.
struct KvPages {
  DType dtype = DType::f16;           // F16 or F32
  std::span<std::byte* const> pages;  // each of ops.page_bytes(); null where no query can see any more
  int64_t length = 0;                 // tokens in all pages
};

/// Keys and values of one layer of one sequence in blocks of kKvBlockTokens, all but the newest compressed. The layout
/// of exact and of first tokens is the backend's, that of compressed blocks the format's (quant/kv.h).
struct KvBlocks {
  const KvCode* code = nullptr;
  const std::byte* first = nullptr;  // exact keys and values of the first kKvFirstTokens; null if nothing is compressed
  std::span<const std::byte* const> compressed;  // each kv_head_bytes times the KV heads
  std::span<std::byte* const> exact;             // the blocks behind them, each of ops.exact_block_bytes()
  int64_t length = 0;                            // tokens in all blocks
};
constexpr int64_t kKvFirstTokens = 16;

class Ops {
 public:
  virtual ~Ops() = default;

  virtual void begin_scope() = 0;

  /// Is shown the products of every matmul before they are computed, and answers whether they shall be: of those that
  /// are not, the results are zeros. So calibration sees what matrices read. An empty one ends it.
  using ProductObserver = std::function<bool(std::span<const Product>)>;
  virtual void observe_products(ProductObserver observer) = 0;

  /// Whether this backend multiplies copies of tiled matrices of 2 to 4 bits faster, in an order of its own.
  virtual bool repacks() const = 0;
  /// Writes such a copy, for Weight::repacked: U8 of the shape of weight.data.
  virtual void repack(const Weight& weight, Tensor out) = 0;

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
  /// cos and sin F32 [positions, head_dim / 2], positions [tokens] index their rows. With a
  /// head_dim of more than twice the width of cos, the values of a head behind that stay as they are; 0: no such
  /// values.
  virtual Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::span<const int32_t> positions,
                      int64_t head_dim = 0) = 0;
  /// silu(gate) * up
  virtual Tensor swiglu(const Tensor& gate, const Tensor& up) = 0;
  /// g * sigmoid(alpha * g) * (u + 1) with g = min(gate, limit) and u = up within -limit .. limit: gpt-oss's SwiGLU
  virtual Tensor clamped_swiglu(const Tensor& gate, const Tensor& up, float alpha, float limit) = 0;
  /// x * sigmoid(gate)
  virtual Tensor sigmoid_gate(const Tensor& x, const Tensor& gate) = 0;
  virtual Tensor add(const Tensor& a, const Tensor& b) = 0;
  /// Columns [begin, end) of every one of `blocks` equal blocks of a row: F32 [tokens, width] ->
  /// [tokens, blocks * (end - begin)].
  virtual Tensor slice_blocks(const Tensor& x, int64_t blocks, int64_t begin, int64_t end) = 0;
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

  using Piece = std::function<void(Ops& ops, int64_t i)>;
  /// Pieces of work that do not depend on one another, such as a layer's attention of each sequence: calls
  /// piece(ops, i), which computes with the `ops` that it gets, once for each of `weights`. Where a thread would have
  /// several, each piece is computed by one thread; one that weighs much among all, by all threads. Throws what a piece
  /// throws; others may then not have been called.
  virtual void each(std::span<const int64_t> weights, const Piece& piece) = 0;

  /// Tokens and bytes of one page of keys and values.
  virtual int64_t page_tokens() const = 0;
  virtual size_t page_bytes(const AttentionShape& shape, DType dtype) const = 0;
  /// Writes keys and values of new tokens, F32 [tokens, n_kv_heads * head_dim], at positions length .. length + tokens.
  virtual void append_kv(const Tensor& keys, const Tensor& values, const AttentionShape& shape,
                         const KvPages& cache) = 0;
  /// Reads the keys and values of positions begin, begin + 1, ...: F32 [tokens, n_kv_heads * head_dim].
  virtual void read_kv(const AttentionShape& shape, const KvPages& cache, int64_t begin, Tensor keys,
                       Tensor values) const = 0;
  /// Causal attention of one sequence: query i of `queries` F32 [tokens, n_heads * head_dim] sees the positions up to
  /// cache.length - tokens + i, within its window. Writes `out`, of the same shape.
  virtual void attention(const Tensor& queries, const AttentionShape& shape, const KvPages& cache, Tensor out) = 0;

  /// Bytes of an exact block of a compressed cache, and of its first tokens.
  virtual size_t exact_block_bytes(const AttentionShape& shape) const = 0;
  virtual size_t first_tokens_bytes(const AttentionShape& shape) const = 0;
  /// As append_kv(), to the exact blocks.
  virtual void append_blocks(const Tensor& keys, const Tensor& values, const AttentionShape& shape,
                             const KvBlocks& cache) = 0;
  /// Compresses a full exact block. If `first` is given, the block is the first of all, and its first tokens are kept.
  virtual void compress_block(const std::byte* exact, const AttentionShape& shape, const KvCode& code,
                              std::byte* compressed, std::byte* first) = 0;
  /// As read_kv(): compressed ones are decoded and rotated back.
  virtual void read_blocks(const AttentionShape& shape, const KvBlocks& cache, int64_t begin, Tensor keys,
                           Tensor values) const = 0;
  /// As attention(), without a window. The queries lie behind all compressed tokens.
  virtual void attention_blocks(const Tensor& queries, const AttentionShape& shape, const KvBlocks& cache,
                                Tensor out) = 0;

  /// Causal convolution over the tokens of one sequence, each channel for itself, and SiLU. x F32 [tokens, channels],
  /// weight F32 [taps, channels] (the last tap is the token's own). `state` F32 [taps - 1, channels] holds the inputs
  /// before x, the oldest first, and then those before the next token. Writes `out`, of the shape of x.
  virtual void conv1d(const Tensor& x, const Tensor& weight, Tensor state, Tensor out) = 0;
  /// The gated delta rule (Yang et al. 2024, "Gated Delta Networks") over the tokens of one sequence. For each value
  /// head with its memory S [key_dim, value_dim], and each token with unit vectors q (divided by sqrt(key_dim)) and k:
  ///   S = exp(-rate softplus(a + dt_bias)) S;  S = S + k (sigmoid(b) (v - S^T k))^T;  result = S^T q
  /// qkv F32 [tokens, channels], q and k of any length; `position` is the number of tokens before them. Writes `out`,
  /// F32 [tokens, values]. `state` F32 [n_value_heads, shape.state_floats()], zeros at position 0.
  /// Computed by chunks: tokens of one chunk (of positions, not of a call) see S as it was at the chunk's start and one
  /// another's changes, as products of matrices, and S moves on when the chunk is full. A token's result is the same to
  /// the last bit however its sequence is cut into calls.
  virtual void gated_delta(const Tensor& qkv, const DeltaGates& gates, const DeltaShape& shape, int64_t position,
                           Tensor state, Tensor out) = 0;
};

/// The CPU backend on the threads of `pool`.
std::unique_ptr<Ops> make_cpu_ops(std::shared_ptr<ThreadPool> pool);

}  // namespace turboquant
