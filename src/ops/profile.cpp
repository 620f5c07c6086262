#include "ops/profile.h"

#include <mutex>
#include <type_traits>
#include <utility>

#include "core/clock.h"

namespace turboquant {
namespace {

class ProfilingOps final : public Ops {
 public:
  ProfilingOps(std::shared_ptr<Ops> ops, std::shared_ptr<Profile> profile)
      : ops_(std::move(ops)), profile_(std::move(profile)) {}

  void begin_scope() override { ops_->begin_scope(); }
  void observe_products(ProductObserver observer) override { ops_->observe_products(std::move(observer)); }

  bool repacks() const override { return ops_->repacks(); }
  void repack(const Weight& weight, Tensor out) override { ops_->repack(weight, std::move(out)); }

  Tensor embedding(const Weight& table, const Rotation& rotation, std::span<const int32_t> ids) override {
    vocabulary_ = table.rows;
    return timed(OpClass::embedding, [&] { return ops_->embedding(table, rotation, ids); });
  }
  Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps) override {
    return timed(OpClass::elementwise, [&] { return ops_->rms_norm(x, weight, eps); });
  }
  Activations prepare(const Tensor& x, const Rotation& rotation, bool exact) override {
    return timed(OpClass::inputs, [&] { return ops_->prepare(x, rotation, exact); });
  }
  std::vector<Tensor> matmul(const Activations& x, std::span<const Projection> projections) override {
    const OpClass op = projections.size() == 1 ? class_of(projections.front()) : OpClass::products;
    return timed(op, [&] { return ops_->matmul(x, projections); });
  }
  std::vector<Tensor> matmul_each(std::span<const Product> products) override {
    const OpClass op = products.size() == 1 ? class_of(products.front().projection) : OpClass::products;
    return timed(op, [&] { return ops_->matmul_each(products); });
  }
  Activations gather(const Activations& x, std::span<const int32_t> tokens) override {
    return timed(OpClass::inputs, [&] { return ops_->gather(x, tokens); });
  }
  Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::span<const int32_t> positions,
              int64_t head_dim) override {
    return timed(OpClass::elementwise, [&] { return ops_->rope(x, cos, sin, positions, head_dim); });
  }
  Tensor swiglu(const Tensor& gate, const Tensor& up) override {
    return timed(OpClass::elementwise, [&] { return ops_->swiglu(gate, up); });
  }
  Tensor clamped_swiglu(const Tensor& gate, const Tensor& up, float alpha, float limit) override {
    return timed(OpClass::elementwise, [&] { return ops_->clamped_swiglu(gate, up, alpha, limit); });
  }
  Tensor sigmoid_gate(const Tensor& x, const Tensor& gate) override {
    return timed(OpClass::elementwise, [&] { return ops_->sigmoid_gate(x, gate); });
  }
  Tensor add(const Tensor& a, const Tensor& b) override {
    return timed(OpClass::elementwise, [&] { return ops_->add(a, b); });
  }
  Tensor slice_blocks(const Tensor& x, int64_t blocks, int64_t begin, int64_t end) override {
    return timed(OpClass::elementwise, [&] { return ops_->slice_blocks(x, blocks, begin, end); });
  }
  Tensor gather_rows(const Tensor& x, std::span<const int32_t> rows) override {
    return timed(OpClass::elementwise, [&] { return ops_->gather_rows(x, rows); });
  }
  Tensor weighted_rows(const Tensor& x, std::span<const int32_t> rows, std::span<const float> weights,
                       int64_t per_token) override {
    return timed(OpClass::elementwise, [&] { return ops_->weighted_rows(x, rows, weights, per_token); });
  }
  Tensor softmax(const Tensor& x) override {
    return timed(OpClass::elementwise, [&] { return ops_->softmax(x); });
  }
  Tensor empty(DType dtype, Shape shape) override { return ops_->empty(dtype, shape); }
  // The pieces' times, taken on several threads at once, divide the time of all.
  void each(std::span<const int64_t> weights, const Piece& piece) override {
    const auto start = Clock::now();
    Profile all;
    std::mutex mutex;
    ops_->each(weights, [&](Ops& ops, int64_t i) {
      const auto own = std::make_shared<Profile>();
      ProfilingOps profiling(std::shared_ptr<Ops>(std::shared_ptr<Ops>(), &ops), own);
      piece(profiling, i);
      const std::lock_guard lock(mutex);
      all += *own;
    });
    const double seconds = all.seconds();
    if (seconds == 0) return;
    const double share = seconds_since(start) / seconds;
    for (Profile::Entry& entry : all.entries) entry.seconds *= share;
    *profile_ += all;
  }

  int64_t page_tokens() const override { return ops_->page_tokens(); }
  size_t page_bytes(const AttentionShape& shape, DType dtype) const override { return ops_->page_bytes(shape, dtype); }
  void append_kv(const Tensor& keys, const Tensor& values, const AttentionShape& shape, const KvPages& cache) override {
    timed(OpClass::cache, [&] { ops_->append_kv(keys, values, shape, cache); });
  }
  void read_kv(const AttentionShape& shape, const KvPages& cache, int64_t begin, Tensor keys,
               Tensor values) const override {
    timed(OpClass::cache, [&] { ops_->read_kv(shape, cache, begin, std::move(keys), std::move(values)); });
  }
  void attention(const Tensor& queries, const AttentionShape& shape, const KvPages& cache, Tensor out) override {
    timed(OpClass::attention, [&] { ops_->attention(queries, shape, cache, std::move(out)); });
  }

  size_t exact_block_bytes(const AttentionShape& shape) const override { return ops_->exact_block_bytes(shape); }
  size_t first_tokens_bytes(const AttentionShape& shape) const override { return ops_->first_tokens_bytes(shape); }
  void append_blocks(const Tensor& keys, const Tensor& values, const AttentionShape& shape,
                     const KvBlocks& cache) override {
    timed(OpClass::cache, [&] { ops_->append_blocks(keys, values, shape, cache); });
  }
  void compress_block(const std::byte* exact, const AttentionShape& shape, const KvCode& code, std::byte* compressed,
                      std::byte* first) override {
    timed(OpClass::cache, [&] { ops_->compress_block(exact, shape, code, compressed, first); });
  }
  void read_blocks(const AttentionShape& shape, const KvBlocks& cache, int64_t begin, Tensor keys,
                   Tensor values) const override {
    timed(OpClass::cache, [&] { ops_->read_blocks(shape, cache, begin, std::move(keys), std::move(values)); });
  }
  void attention_blocks(const Tensor& queries, const AttentionShape& shape, const KvBlocks& cache,
                        Tensor out) override {
    timed(OpClass::attention, [&] { ops_->attention_blocks(queries, shape, cache, std::move(out)); });
  }

  void conv1d(const Tensor& x, const Tensor& weight, Tensor state, Tensor out) override {
    timed(OpClass::linear_attention, [&] { ops_->conv1d(x, weight, std::move(state), std::move(out)); });
  }
  void gated_delta(const Tensor& qkv, const DeltaGates& gates, const DeltaShape& shape, int64_t position, Tensor state,
                   Tensor out) override {
    timed(OpClass::linear_attention,
          [&] { ops_->gated_delta(qkv, gates, shape, position, std::move(state), std::move(out)); });
  }

 private:
  /// Adds the time from its making to its end. A call that throws counts, too.
  class Timer {
   public:
    explicit Timer(Profile::Entry& entry) : entry_(entry) {}
    ~Timer() {
      entry_.seconds += seconds_since(start_);
      ++entry_.calls;
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    Profile::Entry& entry_;
    Clock::time_point start_ = Clock::now();
  };

  OpClass class_of(const Projection& projection) const {
    return projection.weight->rows == vocabulary_ ? OpClass::head : OpClass::products;
  }

  template <typename Call>
  std::invoke_result_t<Call> timed(OpClass op, const Call& call) const {
    const Timer timer((*profile_)[op]);
    return call();
  }

  std::shared_ptr<Ops> ops_;
  std::shared_ptr<Profile> profile_;
  int64_t vocabulary_ = -1;
};

}  // namespace

std::string_view name(OpClass op) {
  constexpr std::array<std::string_view, kOpClasses> kNames{
      "embedding",    "inputs of products", "matrix products", "attention",
      "cache writes", "linear attention",   "elementwise",     "head"};
  return kNames[static_cast<size_t>(op)];
}

double Profile::seconds() const {
  double total = 0;
  for (const Entry& entry : entries) total += entry.seconds;
  return total;
}

Profile& Profile::operator+=(const Profile& other) {
  for (size_t i = 0; i < kOpClasses; ++i) {
    entries[i].seconds += other.entries[i].seconds;
    entries[i].calls += other.entries[i].calls;
  }
  return *this;
}

std::unique_ptr<Ops> make_profiling_ops(std::shared_ptr<Ops> ops, std::shared_ptr<Profile> profile) {
  return std::make_unique<ProfilingOps>(std::move(ops), std::move(profile));
}

}  // namespace turboquant
