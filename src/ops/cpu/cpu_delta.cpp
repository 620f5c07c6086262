// Linear attention of the CPU backend: the causal convolution and the gated delta rule by chunks of tokens. The threads
// share the heads.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/expect.h"

namespace turboquant {
namespace {

constexpr int64_t kMaxTaps = 64;
constexpr int64_t kConvChannels = 1024;  // of one task
constexpr float kLeastLogDecay = -1e4F;  // forgets everything, and sums of a chunk stay finite
constexpr float kUnitEps = 1e-6F;        // added to the sum of squares of queries and keys

float softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }
float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

}  // namespace

void CpuOps::conv1d(const Tensor& x, const Tensor& weight, Tensor state, Tensor out) {
  expect(x, DType::f32, 2, "conv1d", "x");
  expect(weight, DType::f32, 2, "conv1d", "weight");
  const int64_t tokens = x.dim(0), channels = x.dim(1), taps = weight.dim(0);
  expect_equal(weight.dim(1), channels, "conv1d", "width of weight");
  if (taps < 1 || taps > kMaxTaps)
    throw Error("conv1d: " + std::to_string(taps) + " taps; 1 to " + std::to_string(kMaxTaps) + " are supported");
  expect(state, DType::f32, Shape{taps - 1, channels}, "conv1d", "state");
  expect(out, DType::f32, x.shape(), "conv1d", "out");
  // Input `position` of this sequence; those below 0 are in the state.
  const auto input = [&](int64_t position) {
    return position < 0 ? state.data<float>() + (position + taps - 1) * channels
                        : x.data<float>() + position * channels;
  };
  const int64_t pieces = (channels + kConvChannels - 1) / kConvChannels;
  pool_.parallel_for(tokens * pieces, std::max<int64_t>(1, kConvChannels / channels), [&](int64_t begin, int64_t end) {
    std::array<const float*, kMaxTaps> rows{};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / pieces, first = i % pieces * kConvChannels;
      for (int64_t tap = 0; tap < taps; ++tap) rows[static_cast<size_t>(tap)] = input(t + tap - taps + 1) + first;
      kernels_.conv1d(rows.data(), weight.data<float>() + first, channels, taps,
                      std::min(kConvChannels, channels - first), out.data<float>() + t * channels + first);
    }
  });
  // Upwards: a row of the state is read before it is written.
  for (int64_t row = 0; row < taps - 1; ++row)
    std::memmove(state.data<float>() + row * channels, input(tokens + row - taps + 1),
                 static_cast<size_t>(channels) * sizeof(float));
}

void CpuOps::gated_delta(const Tensor& qkv, const DeltaGates& gates, const DeltaShape& shape, int64_t position,
                         Tensor state, Tensor out) {
  expect(qkv, DType::f32, 2, "gated_delta", "qkv");
  if (shape.n_key_heads < 1 || shape.key_dim < 1 || shape.value_dim < 1 || shape.n_value_heads < 1 ||
      shape.n_value_heads % shape.n_key_heads != 0)
    throw Error("gated_delta: " + std::to_string(shape.n_value_heads) + " value heads do not share " +
                std::to_string(shape.n_key_heads) + " key heads evenly");
  const int64_t tokens = qkv.dim(0), heads = shape.n_value_heads, key_dim = shape.key_dim, value_dim = shape.value_dim;
  expect_equal(qkv.dim(1), shape.channels(), "gated_delta", "width of qkv");
  expect(gates.a, DType::f32, Shape{tokens, heads}, "gated_delta", "a");
  expect(gates.b, DType::f32, Shape{tokens, heads}, "gated_delta", "b");
  expect(gates.rate, DType::f32, Shape{heads}, "gated_delta", "rate");
  expect(gates.dt_bias, DType::f32, Shape{heads}, "gated_delta", "dt_bias");
  expect(state, DType::f32, Shape{heads, shape.state_floats()}, "gated_delta", "state");
  expect(out, DType::f32, Shape{tokens, shape.values()}, "gated_delta", "out");

  Tensor units = arena_.allocate(DType::f32, {tokens, 2 * shape.keys()});
  Tensor log_decay = arena_.allocate(DType::f32, {tokens, heads}), beta = arena_.allocate(DType::f32, {tokens, heads});
  // x / sqrt(sum of squares + eps) as an RMS norm: its mean is the sum divided by key_dim.
  const auto dim = static_cast<float>(key_dim);
  const std::vector<float> key_weight(static_cast<size_t>(key_dim), 1.0F / std::sqrt(dim));
  const std::vector<float> query_weight(static_cast<size_t>(key_dim), 1.0F / dim);
  pool_.parallel_for(tokens, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < 2 * shape.n_key_heads; ++h)
        kernels_.rms_norm(qkv.data<float>() + t * shape.channels() + h * key_dim,
                          h < shape.n_key_heads ? query_weight.data() : key_weight.data(), key_dim, kUnitEps / dim,
                          units.data<float>() + t * 2 * shape.keys() + h * key_dim);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = t * heads + h;
        const float step = softplus(gates.a.data<float>()[at] + gates.dt_bias.data<float>()[h]);
        log_decay.data<float>()[at] = std::max(kLeastLogDecay, -gates.rate.data<float>()[h] * step);
        beta.data<float>()[at] = sigmoid(gates.b.data<float>()[at]);
      }
    }
  });
  const int64_t group = heads / shape.n_key_heads;
  pool_.parallel_for(heads, 1, [&](int64_t first, int64_t last) {
    std::array<float, kDeltaChunk * kDeltaChunk> key_weights{}, query_weights{};
    for (int64_t h = first; h < last; ++h) {
      float* memory = state.data<float>() + h * shape.state_floats();
      float* keys = memory + key_dim * value_dim;
      float* changes = keys + key_dim * kDeltaChunk;
      for (int64_t t = 0; t < tokens;) {
        const int64_t begin = (position + t) % kDeltaChunk, count = std::min(kDeltaChunk - begin, tokens - t);
        const float* q = units.data<float>() + t * 2 * shape.keys() + h / group * key_dim;
        kernels_.gated_delta({.begin = begin,
                              .tokens = count,
                              .key_dim = key_dim,
                              .value_dim = value_dim,
                              .q = q,
                              .k = q + shape.keys(),
                              .qk_stride = 2 * shape.keys(),
                              .v = qkv.data<float>() + t * shape.channels() + 2 * shape.keys() + h * value_dim,
                              .v_stride = shape.channels(),
                              .log_decay = log_decay.data<float>() + t * heads + h,
                              .beta = beta.data<float>() + t * heads + h,
                              .gate_stride = heads,
                              .memory = memory,
                              .keys = keys,
                              .changes = changes,
                              .decays = changes + kDeltaChunk * value_dim,
                              .key_weights = key_weights.data(),
                              .query_weights = query_weights.data(),
                              .out = out.data<float>() + t * shape.values() + h * value_dim,
                              .out_stride = shape.values()});
        t += count;
      }
    }
  });
}

}  // namespace turboquant
