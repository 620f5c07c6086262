#include "generate/kv_cosine.h"

#include <algorithm>
#include <cmath>

namespace turboquant {
namespace {

class MeanCosine {
 public:
  void add(const float* a, const float* b, int64_t n) {
    ++all_;
    if (std::equal(a, a + n, b)) return;
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; ++i) {
      ab += static_cast<double>(a[i]) * b[i];
      aa += static_cast<double>(a[i]) * a[i];
      bb += static_cast<double>(b[i]) * b[i];
    }
    sum_ += ab / std::sqrt(std::max(aa * bb, 1e-300));
    ++changed_;
  }
  double changed() const { return changed_ == 0 ? 1 : sum_ / changed_; }
  double all() const { return all_ == 0 ? 1 : (sum_ + all_ - changed_) / all_; }

 private:
  double sum_ = 0, all_ = 0, changed_ = 0;
};

}  // namespace

KvCosine kv_cosine(Ops& ops, const Cache& exact, const CacheOptions& options) {
  Cache compressed = exact.fork();
  convert_cache(ops, compressed, options);
  MeanCosine keys, values;
  for (size_t i = 0; i < exact.layers.size(); ++i) {
    const LayerMemory& memory = exact.memory[i];
    if (memory.n_kv_heads == 0 || memory.window != 0) continue;
    const Shape shape{exact.length(), memory.width()};
    const Tensor k = Tensor::zeros(DType::f32, shape), v = Tensor::zeros(DType::f32, shape),
                 coded_k = Tensor::zeros(DType::f32, shape), coded_v = Tensor::zeros(DType::f32, shape);
    exact.layers[i]->read(ops, 0, k, v);
    compressed.layers[i]->read(ops, 0, coded_k, coded_v);
    for (int64_t at = 0; at < k.elements(); at += memory.head_dim) {
      keys.add(k.data<float>() + at, coded_k.data<float>() + at, memory.head_dim);
      values.add(v.data<float>() + at, coded_v.data<float>() + at, memory.head_dim);
    }
  }
  return {keys.all(), values.all(), keys.changed(), values.changed()};
}

}  // namespace turboquant
