// Linear attention of every level that this processor has, against its definition in double precision.
#include <numeric>

#include "ops/cpu/cpu_ops.h"
#include "ops/support.h"
#include "quant/fixture.h"

namespace turboquant {
namespace {

Tensor tensor_of(const std::vector<float>& values, Shape shape) {
  return values.empty() ? Tensor::zeros(DType::f32, shape) : from_float(values.data(), shape, DType::f32);
}

std::vector<float> values_of(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.elements()};
}

/// The tokens of a sequence in parts, 1 to all of them each.
std::vector<int64_t> random_cuts(int64_t tokens, Dice& dice) {
  std::vector<int64_t> cuts{0};
  while (cuts.back() < tokens) cuts.push_back(dice.between(cuts.back() + 1, tokens));
  return cuts;
}

// ---------------------------------------------------------------- gated delta rule
/// A state with these memories [n_value_heads][key_dim][value_dim] at the start of a chunk.
Tensor state_of(const std::vector<float>& memories, const DeltaShape& shape) {
  Tensor state = Tensor::zeros(DType::f32, {shape.n_value_heads, shape.state_floats()});
  const int64_t size = shape.key_dim * shape.value_dim;
  for (int64_t h = 0; h < shape.n_value_heads; ++h)
    std::copy_n(memories.data() + h * size, size, state.data<float>() + h * shape.state_floats());
  return state;
}

/// The memories behind `pending` tokens of a chunk.
std::vector<float> memories_of(const Tensor& state, const DeltaShape& shape, int64_t pending) {
  const int64_t dk = shape.key_dim, dv = shape.value_dim;
  std::vector<float> memories;
  for (int64_t h = 0; h < shape.n_value_heads; ++h) {
    const float* memory = state.data<float>() + h * shape.state_floats();
    const float *keys = memory + dk * dv, *changes = keys + dk * kDeltaChunk, *decays = changes + kDeltaChunk * dv;
    for (int64_t m = 0; m < dk; ++m)
      for (int64_t c = 0; c < dv; ++c) {
        const double last = pending == 0 ? 0 : decays[pending - 1];
        double value = std::exp(last) * memory[m * dv + c];
        for (int64_t j = 0; j < pending; ++j)
          value += std::exp(last - decays[j]) * keys[m * kDeltaChunk + j] * changes[j * dv + c];
        memories.push_back(static_cast<float>(value));
      }
  }
  return memories;
}

struct DeltaCase {
  explicit DeltaCase(Dice& dice) {
    shape.n_key_heads = dice.between(1, 3);
    shape.n_value_heads = shape.n_key_heads * dice.between(1, 3);
    shape.key_dim = dice.one_of({1, 7, 16, 32, dice.between(1, 130)});
    shape.value_dim = dice.one_of({1, 9, 32, 64, dice.between(1, 150)});
    tokens = dice.between(1, 50);  // several chunks
    const int64_t heads = shape.n_value_heads;
    qkv = tensor_of(dice.normals(tokens * shape.channels(), 2), {tokens, shape.channels()});
    gates.a = tensor_of(dice.normals(tokens * heads, 3), {tokens, heads});
    gates.b = tensor_of(dice.normals(tokens * heads, 2), {tokens, heads});
    std::vector<float> rate = dice.normals(heads);
    for (float& r : rate) r = 0.01F + std::abs(r);
    gates.rate = tensor_of(rate, {heads});
    gates.dt_bias = tensor_of(dice.normals(heads), {heads});
    state = dice.normals(heads * shape.key_dim * shape.value_dim);
  }

  /// Before the first token.
  Tensor state_tensor() const { return state_of(state, shape); }

  DeltaShape shape;
  int64_t tokens;
  Tensor qkv;
  DeltaGates gates;
  std::vector<float> state;
};

/// By definition: one token, one head, one matrix after the other. Returns results and leaves the memory in `state`.
std::vector<float> delta_by_definition(const DeltaCase& c, std::vector<double>& state) {
  const DeltaShape& shape = c.shape;
  const int64_t dk = shape.key_dim, dv = shape.value_dim;
  std::vector<float> results;
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t h = 0; h < shape.n_value_heads; ++h) {
      const float* row = c.qkv.data<float>() + t * shape.channels();
      const int64_t key_head = h / (shape.n_value_heads / shape.n_key_heads);
      const float* value = row + 2 * shape.keys() + h * dv;
      const auto unit = [&](const float* x) {
        double squares = 1e-6;
        for (int64_t i = 0; i < dk; ++i) squares += static_cast<double>(x[i]) * x[i];
        std::vector<double> result;
        for (int64_t i = 0; i < dk; ++i) result.push_back(x[i] / std::sqrt(squares));
        return result;
      };
      const std::vector<double> q = unit(row + key_head * dk), k = unit(row + shape.keys() + key_head * dk);
      const auto of_head = [&](const Tensor& x) { return static_cast<double>(x.data<float>()[h]); };
      const double a = c.gates.a.data<float>()[t * shape.n_value_heads + h] + of_head(c.gates.dt_bias);
      const double b = c.gates.b.data<float>()[t * shape.n_value_heads + h];
      const double decay = std::exp(-of_head(c.gates.rate) * std::log(1 + std::exp(a))), beta = 1 / (1 + std::exp(-b));
      double* memory = state.data() + h * dk * dv;
      for (int64_t i = 0; i < dk * dv; ++i) memory[i] *= decay;
      for (int64_t j = 0; j < dv; ++j) {
        double recalled = 0, result = 0;
        for (int64_t i = 0; i < dk; ++i) recalled += memory[i * dv + j] * k[static_cast<size_t>(i)];
        for (int64_t i = 0; i < dk; ++i) memory[i * dv + j] += k[static_cast<size_t>(i)] * beta * (value[j] - recalled);
        for (int64_t i = 0; i < dk; ++i) result += memory[i * dv + j] * q[static_cast<size_t>(i)];
        results.push_back(static_cast<float>(result / std::sqrt(static_cast<double>(dk))));
      }
    }
  return results;
}

TEST(GatedDelta, IsTheDefinitionOnEveryLevel) {
  for (const CpuLevel level : available_cpu_levels()) {
    Dice dice(1);
    CpuOps ops = ops_at(level, 2);
    double worst = 0, worst_state = 0;
    for (int trial = 0; trial < 60; ++trial) {
      const DeltaCase c(dice);
      std::vector<double> expected_state(c.state.begin(), c.state.end());
      const std::vector<float> expected = delta_by_definition(c, expected_state);
      Guarded<float> result(c.tokens * c.shape.values());
      const Tensor state = c.state_tensor();
      ops.begin_scope();
      ops.gated_delta(c.qkv, c.gates, c.shape, 0, state,
                      {DType::f32, {c.tokens, c.shape.values()}, result.data(), nullptr});
      const std::vector<float> rounded(expected_state.begin(), expected_state.end());
      worst = std::max(worst, relative_to_norm(result.data(), expected.data(), c.tokens * c.shape.values()));
      const std::vector<float> memories = memories_of(state, c.shape, c.tokens % kDeltaChunk);
      worst_state = std::max(worst_state,
                             relative_to_norm(memories.data(), rounded.data(), static_cast<int64_t>(rounded.size())));
    }
    EXPECT_LT(worst, 2e-6) << name(level);
    EXPECT_LT(worst_state, 2e-6) << name(level);
  }
}

// Errors do not grow with the length of a text: the heads of Qwen3.5 over 20 chunks.
TEST(GatedDelta, LongTextsStayExact) {
  for (const CpuLevel level : available_cpu_levels()) {
    Dice dice(7);
    DeltaCase c(dice);
    c.shape = {1, 2, 128, 128};
    c.tokens = 20 * kDeltaChunk + 5;
    c.qkv = tensor_of(dice.normals(c.tokens * c.shape.channels()), {c.tokens, c.shape.channels()});
    c.gates.a = tensor_of(dice.normals(c.tokens * 2), {c.tokens, 2});
    c.gates.b = tensor_of(dice.normals(c.tokens * 2), {c.tokens, 2});
    c.gates.rate = tensor_of({0.01F, 0.5F}, {2});  // remembers nearly all of it, and a few tokens
    c.gates.dt_bias = tensor_of({0, 0}, {2});
    c.state = dice.normals(2 * 128 * 128);
    std::vector<double> memory(c.state.begin(), c.state.end());
    const std::vector<float> expected = delta_by_definition(c, memory);
    const Tensor out = Tensor::zeros(DType::f32, {c.tokens, c.shape.values()});
    CpuOps ops = ops_at(level, 2);
    ops.begin_scope();
    ops.gated_delta(c.qkv, c.gates, c.shape, 0, c.state_tensor(), out);
    EXPECT_LT(relative_to_norm(out.data<float>(), expected.data(), out.elements()), 1e-6) << name(level);
  }
}

TEST(GatedDelta, CutsDoNotMatter) {
  for (const CpuLevel level : available_cpu_levels()) {
    Dice dice(2);
    CpuOps ops = ops_at(level, 2);
    for (int trial = 0; trial < 20; ++trial) {
      const DeltaCase c(dice);
      const Tensor whole_state = c.state_tensor(), state = c.state_tensor();
      const Tensor whole = Tensor::zeros(DType::f32, {c.tokens, c.shape.values()});
      const Tensor parts = Tensor::zeros(DType::f32, whole.shape());
      ops.begin_scope();
      ops.gated_delta(c.qkv, c.gates, c.shape, 0, whole_state, whole);
      const std::vector<int64_t> cuts = random_cuts(c.tokens, dice);
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        const int64_t begin = cuts[i], end = cuts[i + 1];
        const DeltaGates gates{c.gates.a.rows(begin, end), c.gates.b.rows(begin, end), c.gates.rate, c.gates.dt_bias};
        ops.gated_delta(c.qkv.rows(begin, end), gates, c.shape, begin, state, parts.rows(begin, end));
      }
      EXPECT_EQ(values_of(parts), values_of(whole)) << name(level) << " " << trial;
      EXPECT_EQ(values_of(state), values_of(whole_state)) << name(level) << " " << trial;
    }
  }
}

TEST(GatedDelta, ForgetsAndKeepsAtTheEndsOfItsGates) {
  CpuOps ops = ops_at(detected_cpu_level(), 2);
  const DeltaShape shape{1, 2, 2, 1};
  // The first head forgets all and writes all, the second keeps all and writes nothing.
  const DeltaGates gates{tensor_of({1000, -1000}, {1, 2}), tensor_of({1000, -1000}, {1, 2}), tensor_of({1, 1}, {2}),
                         tensor_of({0, 0}, {2})};
  const Tensor state = state_of({5, 6, 7, 8}, shape), out = Tensor::zeros(DType::f32, {1, 2});
  ops.begin_scope();
  ops.gated_delta(tensor_of({0, 4, 0, 9, 3, 30}, {1, 6}), gates, shape, 0, state, out);
  const std::vector<float> memories = memories_of(state, shape, 1);
  EXPECT_EQ(memories.at(2), 7);
  EXPECT_EQ(memories.at(3), 8);
  EXPECT_NEAR(memories.at(0), 0, 1e-6);
  EXPECT_NEAR(memories.at(1), 3, 1e-6);
  EXPECT_NEAR(values_of(out).at(0), 3 / std::sqrt(2.0), 1e-6);
  EXPECT_NEAR(values_of(out).at(1), 8 / std::sqrt(2.0), 1e-6);
}

TEST(GatedDelta, RefusesOtherShapes) {
  CpuOps ops = ops_at(CpuLevel::scalar, 2);
  Dice dice(3);
  const DeltaCase c(dice);
  const Tensor out = Tensor::zeros(DType::f32, {c.tokens, c.shape.values()});
  DeltaShape wide = c.shape;
  wide.value_dim += 1;
  EXPECT_THROW(ops.gated_delta(c.qkv, c.gates, wide, 0, c.state_tensor(), out), Error);
  DeltaShape uneven = c.shape;
  uneven.n_key_heads = c.shape.n_value_heads + 1;
  EXPECT_THROW(ops.gated_delta(c.qkv, c.gates, uneven, 0, c.state_tensor(), out), Error);
  EXPECT_THROW(ops.gated_delta(c.qkv, c.gates, c.shape, 0, Tensor::zeros(DType::f32, {1}), out), Error);
}

// ---------------------------------------------------------------- convolution
struct ConvCase {
  explicit ConvCase(Dice& dice)
      : tokens(dice.between(1, 12)), channels(dice.one_of({1, 40, dice.between(1, 2500)})), taps(dice.between(1, 6)) {
    x = tensor_of(dice.normals(tokens * channels), {tokens, channels});
    weight = tensor_of(dice.normals(taps * channels), {taps, channels});
    state = dice.normals((taps - 1) * channels);
  }

  Tensor state_tensor() const { return tensor_of(state, {taps - 1, channels}); }

  int64_t tokens, channels, taps;
  Tensor x, weight;
  std::vector<float> state;
};

TEST(Conv1d, IsTheDefinitionOnEveryLevel) {
  for (const CpuLevel level : available_cpu_levels()) {
    Dice dice(4);
    CpuOps ops = ops_at(level, 2);
    for (int trial = 0; trial < 40; ++trial) {
      const ConvCase c(dice);
      std::vector<float> inputs = c.state;  // all that the sequence has seen, one row a token
      const std::vector<float> x = values_of(c.x);
      inputs.insert(inputs.end(), x.begin(), x.end());
      std::vector<float> expected;
      for (int64_t t = 0; t < c.tokens; ++t)
        for (int64_t channel = 0; channel < c.channels; ++channel) {
          double sum = 0;
          for (int64_t tap = 0; tap < c.taps; ++tap)
            sum += static_cast<double>(c.weight.data<float>()[tap * c.channels + channel]) *
                   inputs[static_cast<size_t>((t + tap) * c.channels + channel)];
          expected.push_back(static_cast<float>(sum / (1 + std::exp(-sum))));
        }
      Guarded<float> result(c.tokens * c.channels);
      const Tensor state = c.state_tensor();
      ops.conv1d(c.x, c.weight, state, {DType::f32, c.x.shape(), result.data(), nullptr});
      EXPECT_LT(relative_to_norm(result.data(), expected.data(), c.x.elements()), 1e-6) << name(level) << " " << trial;
      EXPECT_EQ(values_of(state), std::vector<float>(inputs.end() - state.elements(), inputs.end()));
    }
  }
}

TEST(Conv1d, CutsDoNotMatter) {
  for (const CpuLevel level : available_cpu_levels()) {
    Dice dice(5);
    CpuOps ops = ops_at(level, 2);
    for (int trial = 0; trial < 20; ++trial) {
      const ConvCase c(dice);
      const Tensor whole = Tensor::zeros(DType::f32, c.x.shape()), parts = Tensor::zeros(DType::f32, c.x.shape());
      ops.conv1d(c.x, c.weight, c.state_tensor(), whole);
      const Tensor state = c.state_tensor();
      const std::vector<int64_t> cuts = random_cuts(c.tokens, dice);
      for (size_t i = 0; i + 1 < cuts.size(); ++i)
        ops.conv1d(c.x.rows(cuts[i], cuts[i + 1]), c.weight, state, parts.rows(cuts[i], cuts[i + 1]));
      EXPECT_EQ(values_of(parts), values_of(whole)) << name(level) << " " << trial;
    }
  }
}

TEST(Conv1d, RefusesOtherShapes) {
  CpuOps ops = ops_at(CpuLevel::scalar, 2);
  const Tensor x = Tensor::zeros(DType::f32, {2, 8}), weight = Tensor::zeros(DType::f32, {4, 8});
  EXPECT_THROW(ops.conv1d(x, weight, Tensor::zeros(DType::f32, {4, 8}), x), Error);
  EXPECT_THROW(ops.conv1d(x, Tensor::zeros(DType::f32, {4, 7}), Tensor::zeros(DType::f32, {3, 8}), x), Error);
  EXPECT_THROW(ops.conv1d(x, Tensor::zeros(DType::f32, {70, 8}), Tensor::zeros(DType::f32, {69, 8}), x), Error);
}

// ---------------------------------------------------------------- parts of gated attention
TEST(SigmoidGate, IsTheDefinitionOnEveryLevel) {
  for (const CpuLevel level : available_cpu_levels()) {
    Dice dice(6);
    for (int trial = 0; trial < 20; ++trial) {
      const int64_t n = dice.between(1, 300);
      const std::vector<float> x = dice.normals(n), gate = dice.normals(n, 30);
      std::vector<float> expected;
      for (size_t i = 0; i < x.size(); ++i)
        expected.push_back(static_cast<float>(x[i] / (1 + std::exp(-static_cast<double>(gate[i])))));
      Guarded<float> result(n);
      kernels(level).sigmoid_gate(x.data(), gate.data(), n, result.data());
      EXPECT_LT(relative_to_norm(result.data(), expected.data(), n), 1e-6) << name(level);
    }
  }
}

TEST(SliceBlocks, TakesTheSameColumnsOfEveryBlock) {
  CpuOps ops = ops_at(CpuLevel::scalar, 2);
  std::vector<float> values(24);
  std::iota(values.begin(), values.end(), 0.0F);
  const Tensor x = tensor_of(values, {2, 12});
  EXPECT_EQ(values_of(ops.slice_blocks(x, 3, 1, 3)), (std::vector<float>{1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22}));
  EXPECT_THROW(ops.slice_blocks(x, 5, 0, 1), Error);
  EXPECT_THROW(ops.slice_blocks(x, 3, 0, 5), Error);
}

TEST(Rope, TurnsTheFirstValuesOfLongerHeads) {
  CpuOps ops = ops_at(detected_cpu_level(), 2);
  const Tensor cos = tensor_of({0}, {1, 1}), sin = tensor_of({1}, {1, 1});  // a quarter turn
  const std::vector<int32_t> positions{0};
  const Tensor x = tensor_of({1, 2, 3, 4, 5, 6, 7, 8}, {1, 8});
  EXPECT_EQ(values_of(ops.rope(x, cos, sin, positions, 4)), (std::vector<float>{-2, 1, 3, 4, -6, 5, 7, 8}));
  EXPECT_EQ(values_of(ops.rope(x, cos, sin, positions, 2)), values_of(ops.rope(x, cos, sin, positions, 0)));
  EXPECT_THROW(ops.rope(x, cos, sin, positions, 3), Error);
  EXPECT_THROW(ops.rope(x, cos, sin, positions, 1), Error);
}

}  // namespace
}  // namespace turboquant
