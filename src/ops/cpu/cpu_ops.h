// The CPU backend: validates, splits work over the threads, calls the kernels.
#pragma once

#include "core/thread_pool.h"
#include "ops/cpu/arena.h"
#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace turboquant {

class CpuOps final : public Ops {
 public:
  /// `level`: kernels of that instruction set; the processor must have it.
  CpuOps(std::shared_ptr<ThreadPool> pool, CpuLevel level)
      : kernels_(kernels(level)), shared_pool_(std::move(pool)), pool_(*shared_pool_) {}

  void begin_scope() override { arena_.begin_scope(); }
  void observe_products(ProductObserver observer) override { observer_ = std::move(observer); }
  bool repacks() const override { return kernels_.repack != nullptr; }
  void repack(const Weight& weight, Tensor out) override;
  Tensor embedding(const Weight& table, const Rotation& rotation, std::span<const int32_t> ids) override;
  Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps) override;
  Activations prepare(const Tensor& x, const Rotation& rotation, bool exact) override;
  std::vector<Tensor> matmul(const Activations& x, std::span<const Projection> projections) override;
  std::vector<Tensor> matmul_each(std::span<const Product> products) override;
  Activations gather(const Activations& x, std::span<const int32_t> tokens) override;
  Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::span<const int32_t> positions,
              int64_t head_dim) override;
  Tensor swiglu(const Tensor& gate, const Tensor& up) override;
  Tensor sigmoid_gate(const Tensor& x, const Tensor& gate) override;
  Tensor clamped_swiglu(const Tensor& gate, const Tensor& up, float alpha, float limit) override;
  Tensor add(const Tensor& a, const Tensor& b) override;
  Tensor slice_blocks(const Tensor& x, int64_t blocks, int64_t begin, int64_t end) override;
  Tensor gather_rows(const Tensor& x, std::span<const int32_t> rows) override;
  Tensor weighted_rows(const Tensor& x, std::span<const int32_t> rows, std::span<const float> weights,
                       int64_t per_token) override;
  Tensor softmax(const Tensor& x) override;
  Tensor empty(DType dtype, Shape shape) override { return arena_.allocate(dtype, shape); }
  void each(std::span<const int64_t> weights, const Piece& piece) override;

  int64_t page_tokens() const override { return kPageTokens; }
  size_t page_bytes(const AttentionShape& shape, DType dtype) const override;
  void append_kv(const Tensor& keys, const Tensor& values, const AttentionShape& shape, const KvPages& cache) override;
  void read_kv(const AttentionShape& shape, const KvPages& cache, int64_t begin, Tensor keys,
               Tensor values) const override;
  void attention(const Tensor& queries, const AttentionShape& shape, const KvPages& cache, Tensor out) override;

  size_t exact_block_bytes(const AttentionShape& shape) const override;
  size_t first_tokens_bytes(const AttentionShape& shape) const override;
  void append_blocks(const Tensor& keys, const Tensor& values, const AttentionShape& shape,
                     const KvBlocks& cache) override;
  void compress_block(const std::byte* exact, const AttentionShape& shape, const KvCode& code, std::byte* compressed,
                      std::byte* first) override;
  void read_blocks(const AttentionShape& shape, const KvBlocks& cache, int64_t begin, Tensor keys,
                   Tensor values) const override;
  void attention_blocks(const Tensor& queries, const AttentionShape& shape, const KvBlocks& cache, Tensor out) override;

  void conv1d(const Tensor& x, const Tensor& weight, Tensor state, Tensor out) override;
  void gated_delta(const Tensor& qkv, const DeltaGates& gates, const DeltaShape& shape, int64_t position, Tensor state,
                   Tensor out) override;

 private:
  struct Work;  // one product: where its tiles begin among all

  void tiled_dots(const Work& work, int64_t begin, int64_t end) const;
  void tiled_panels(const Work& work, int64_t tile, std::vector<uint8_t>& panels, std::vector<int32_t>& sums) const;
  void floating(const Work& work, int64_t tile, std::vector<float>& rows) const;
  void finish_tile(const Work& work, int64_t tile, const int32_t* sums, int64_t sums_stride) const;

  const Kernels& kernels_;
  std::shared_ptr<ThreadPool> shared_pool_;
  ThreadPool& pool_;
  Arena arena_;
  ProductObserver observer_;
};

}  // namespace turboquant
