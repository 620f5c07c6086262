// Products of the CPU backend for every kind of weight: against double precision, between the levels, and bit for bit
// the same for a token whatever stands beside it.
#include "core/half.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/support.h"
#include "quant/fixture.h"
#include "quant/quantize.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

using Method = QuantSpec::Method;

struct Kind {
  std::string name;
  QuantSpec spec;
  DType dense = DType::f32;  // for spec.bits 16
};

std::vector<Kind> all_kinds() {
  std::vector<Kind> kinds;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    kinds.push_back({std::string(name(dtype)), {Method::tcq16, 16, 64, DType::f16}, dtype});
  for (const int bits : {2, 3, 4, 8})
    kinds.push_back({"tiled " + std::to_string(bits), {Method::tcq16, bits, 64, DType::f16}});
  for (const int bits : {2, 3, 4})
    kinds.push_back({"grouped " + std::to_string(bits), {Method::original, bits, 64, DType::f16}});
  for (const int bits : {3, 4, 8})
    kinds.push_back(
        {"affine " + std::to_string(bits), {Method::affine, bits, 32, bits == 4 ? DType::f32 : DType::f16}});
  return kinds;
}

bool is_tiled(const Weight& weight) { return weight.kind == Weight::Kind::tiled; }

Weight random_weight(const Kind& kind, int64_t rows, int64_t cols, Dice& dice) {
  const std::vector<float> w = dice.normals(rows * cols, 0.05F);
  if (kind.spec.bits != 16)
    return quantize(from_float(w.data(), {rows, cols}, DType::f32), Rotation{}, kind.spec, nullptr);
  Weight weight;
  weight.rows = rows;
  weight.cols = cols;
  weight.data = from_float(w.data(), {rows, cols}, kind.dense);
  return weight;
}

/// Some matrices of one input, every second with a bias.
struct Layer {
  std::vector<Weight> weights;
  std::vector<Tensor> biases;
  std::vector<Projection> projections;

  void add(Weight weight, Dice& dice) {
    biases.push_back(weights.size() % 2 == 0 ? Tensor() : random_tensor(1, weight.rows, dice).reshape({weight.rows}));
    weights.push_back(std::move(weight));
    projections.clear();
    for (size_t i = 0; i < weights.size(); ++i) projections.push_back({&weights[i], &biases[i]});
  }
};

/// x W^T + bias in double precision on decode_rows(), and what errors are relative to.
struct Reference {
  int64_t rows;
  std::vector<double> y, norms, sizes;  // [tokens][rows]: result, |w| |x|, sum of |w|

  Reference(const Weight& weight, const Tensor& bias, const Tensor& x) : rows(weight.rows) {
    std::vector<float> w(static_cast<size_t>(weight.rows * weight.cols));
    decode_rows(weight, 0, weight.rows, w.data());
    for (int64_t t = 0; t < x.dim(0); ++t)
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = w.data() + r * weight.cols;
        const float* in = x.data<float>() + t * weight.cols;
        double sum = 0, size = 0;
        for (int64_t k = 0; k < weight.cols; ++k) {
          sum += static_cast<double>(row[k]) * in[k];
          size += std::fabs(row[k]);
        }
        y.push_back(sum + (bias ? bias.data<float>()[r] : 0.0F));
        norms.push_back(norm(row, weight.cols) * norm(in, weight.cols) + (bias ? std::fabs(bias.data<float>()[r]) : 0));
        sizes.push_back(size);
      }
  }
};

// Rounding of a sum of float products, of the norms of row and token (and of the bias).
constexpr double kFloatBound = 4e-7;

const int64_t kRowCounts[] = {1, 15, 16, 17, 31, 33, 100};

Layer layer_of(const Kind& kind, int64_t cols, Dice& dice) {
  Layer layer;
  for (const int64_t rows : kRowCounts) layer.add(random_weight(kind, rows, cols, dice), dice);
  return layer;
}

TEST(MatMul, ExactProductsAreThoseOfDoublePrecision) {
  Dice dice(1);
  for (const Kind& kind : all_kinds())
    for (const int64_t cols : {64, 192}) {
      const Layer layer = layer_of(kind, cols, dice);
      const Rotation rotation = make_rotation(cols, 3);
      for (const int64_t tokens : {1, 2, 7, 13, 65}) {
        const Tensor x = random_tensor(tokens, cols, dice);
        for (const CpuLevel level : available_cpu_levels()) {
          CpuOps ops = ops_at(level, 1);
          const Activations in = ops.prepare(x, rotation, true);
          EXPECT_FALSE(in.q);
          for (int64_t t = 0; t < tokens; ++t) {
            std::vector<float> rotated(static_cast<size_t>(cols));
            rotate(rotation, x.data<float>() + t * cols, rotated.data());
            ASSERT_EQ(std::memcmp(rotated.data(), in.x.data<float>() + t * cols, rotated.size() * sizeof(float)), 0);
          }
          const std::vector<Tensor> y = ops.matmul(in, layer.projections);
          ASSERT_EQ(y.size(), layer.weights.size());
          for (size_t p = 0; p < y.size(); ++p) {
            const Reference expected(layer.weights[p], layer.biases[p], in.x);
            ASSERT_EQ(y[p].shape(), (Shape{tokens, layer.weights[p].rows}));
            for (size_t i = 0; i < expected.y.size(); ++i)
              ASSERT_NEAR(y[p].data<float>()[i], expected.y[i], kFloatBound * expected.norms[i])
                  << kind.name << ", " << layer.weights[p].rows << " x " << cols << ", " << tokens << " tokens, "
                  << name(level);
          }
        }
      }
    }
}

// Rounding to int8 moves each input by at most half its token's scale; and the result stays within 1% RMS for normally
// distributed inputs (largest of 192 about 2.8, step 2.8 / 127, error step / sqrt(12): 0.64% on average).
TEST(MatMul, Int8ProductsStayWithinTheRoundingOfTheirInputs) {
  Dice dice(2);
  for (const Kind& kind : all_kinds())
    for (const int64_t cols : {64, 192}) {
      const Layer layer = layer_of(kind, cols, dice);
      if (!is_tiled(layer.weights[0])) continue;
      for (const int64_t tokens : {1, 3, 14, 25}) {
        const Tensor x = random_tensor(tokens, cols, dice);
        for (const CpuLevel level : available_cpu_levels()) {
          CpuOps ops = ops_at(level, 1);
          const Activations in = ops.prepare(x, make_rotation(cols, 3), false);
          const std::vector<Tensor> y = ops.matmul(in, layer.projections);
          double squares = 0, error_squares = 0;
          for (size_t p = 0; p < y.size(); ++p) {
            const Reference expected(layer.weights[p], layer.biases[p], in.x);
            for (size_t i = 0; i < expected.y.size(); ++i) {
              const float step = in.scale.data<float>()[i / static_cast<size_t>(expected.rows)];
              const double error = y[p].data<float>()[i] - expected.y[i];
              ASSERT_LE(std::fabs(error), 0.5001 * step * expected.sizes[i] + kFloatBound * expected.norms[i])
                  << kind.name << " " << name(level);
              if (layer.biases[p]) continue;
              squares += expected.y[i] * expected.y[i];
              error_squares += error * error;
            }
          }
          EXPECT_LT(std::sqrt(error_squares / squares), 0.01) << kind.name << " " << name(level);
        }
      }
    }
}

// The same activations give the same bits at every level; so do those that each level makes itself.
TEST(MatMul, Int8ProductsAreTheScalarLevelsBitForBit) {
  Dice dice(3);
  for (const Kind& kind : all_kinds())
    for (const int64_t cols : {16, 48, 64, 320}) {
      if (kind.spec.method != Method::tcq16 || kind.spec.bits == 16) continue;
      const Layer layer = layer_of(kind, cols, dice);
      for (const int64_t tokens : {1, 2, 12, 13, 33, 65}) {
        const Tensor x = random_tensor(tokens, cols, dice);
        const Rotation rotation = make_rotation(cols, 3);
        CpuOps scalar = ops_at(CpuLevel::scalar, 1);
        const Activations in = scalar.prepare(x, rotation, false);
        const std::vector<Tensor> expected = scalar.matmul(in, layer.projections);
        for (const CpuLevel level : available_cpu_levels()) {
          CpuOps ops = ops_at(level, 1);
          const Activations own = ops.prepare(x, rotation, false);
          ASSERT_TRUE(same_bytes(in.scale, own.scale) && same_bytes(in.sum, own.sum)) << name(level);
          const std::vector<Tensor> y = ops.matmul(in, layer.projections), z = ops.matmul(own, layer.projections);
          for (size_t p = 0; p < y.size(); ++p) {
            ASSERT_TRUE(same_bytes(y[p], expected[p])) << kind.name << " " << cols << " " << name(level);
            ASSERT_TRUE(same_bytes(z[p], expected[p])) << kind.name << " " << cols << " " << name(level);
          }
        }
      }
    }
}

// A copy in the backend's own order changes no bit.
TEST(MatMul, RepackedMatricesGiveTheSameBits) {
  Dice dice(13);
  for (const Kind& kind : all_kinds())
    for (const CpuLevel level : available_cpu_levels()) {
      CpuOps ops = ops_at(level, 2);
      Layer layer = layer_of(kind, 192, dice);
      const Tensor x = random_tensor(13, 192, dice);
      const Rotation rotation = make_rotation(192, 3);
      for (const int64_t tokens : {1, 2, 13}) {
        const Activations in = ops.prepare(x.rows(0, tokens), rotation, !is_tiled(layer.weights[0]));
        for (Weight& weight : layer.weights) weight.repacked = {};
        const std::vector<Tensor> expected = ops.matmul(in, layer.projections);
        for (Weight& weight : layer.weights) {
          if (!ops.repacks() || !is_tiled(weight) || weight.bits > 4) {
            EXPECT_THROW(ops.repack(weight, weight.data), Error) << kind.name << " " << name(level);
            continue;
          }
          weight.repacked = Tensor::zeros(DType::u8, weight.data.shape());
          ops.repack(weight, weight.repacked);
        }
        const std::vector<Tensor> y = ops.matmul(in, layer.projections);
        for (size_t p = 0; p < y.size(); ++p)
          ASSERT_TRUE(same_bytes(y[p], expected[p])) << kind.name << " " << name(level) << " " << tokens;
      }
    }
}

/// A token's results, row after row of all projections.
std::vector<std::vector<float>> results_by_token(CpuOps& ops, const Tensor& x, const Rotation& rotation, bool exact,
                                                 const Layer& layer) {
  ops.begin_scope();
  const std::vector<Tensor> y = ops.matmul(ops.prepare(x, rotation, exact), layer.projections);
  std::vector<std::vector<float>> tokens(static_cast<size_t>(x.dim(0)));
  for (const Tensor& result : y)
    for (size_t t = 0; t < tokens.size(); ++t) {
      const Tensor row = result.rows(static_cast<int64_t>(t), static_cast<int64_t>(t) + 1);
      tokens[t].insert(tokens[t].end(), row.data<float>(), row.data<float>() + row.elements());
    }
  return tokens;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Every batch size from 1 to 65, the tokens before and after a token changing with it, against the token alone.
TEST(MatMul, ATokensResultDoesNotDependOnItsBatch) {
  constexpr int64_t kTokens = 65, kCols = 64;
  Dice dice(4);
  const Rotation rotation = make_rotation(kCols, 3);
  const Tensor x = random_tensor(kTokens, kCols, dice);
  for (const Kind& kind : all_kinds()) {
    Layer layer;
    for (const int64_t rows : {17, 33}) layer.add(random_weight(kind, rows, kCols, dice), dice);
    for (const CpuLevel level : available_cpu_levels())
      for (const bool exact : {true, false}) {
        std::vector<std::vector<float>> alone;
        CpuOps single = ops_at(level, 1);
        for (int64_t t = 0; t < kTokens; ++t)
          alone.push_back(results_by_token(single, x.rows(t, t + 1), rotation, exact, layer).front());
        for (const int threads : {1, 2, 3}) {
          CpuOps ops = ops_at(level, threads);
          for (int64_t tokens = 1; tokens <= kTokens; tokens += threads == 1 ? 1 : dice.between(1, 12)) {
            const int64_t first = dice.between(0, kTokens - tokens);
            const auto batch = results_by_token(ops, x.rows(first, first + tokens), rotation, exact, layer);
            for (int64_t t = 0; t < tokens; ++t)
              ASSERT_TRUE(same_bits(batch[static_cast<size_t>(t)], alone[static_cast<size_t>(first + t)]))
                  << kind.name << (exact ? ", exact, " : ", ") << name(level) << ", " << threads << " threads, token "
                  << t << " of " << tokens;
          }
        }
      }
  }
}

// Rows longer than one panel of decoded weights (8192 columns), where sums go on from panel to panel.
TEST(MatMul, RowsLongerThanAPanel) {
  constexpr int64_t kCols = 8192 + 64, kRows = 33;
  Dice dice(5);
  for (const int bits : {3, 8}) {
    Layer layer;
    layer.add(random_weight({"", {Method::tcq16, bits, 64, DType::f16}}, kRows, kCols, dice), dice);
    const Tensor x = random_tensor(13, kCols, dice);
    const auto expected = [&] {
      CpuOps scalar = ops_at(CpuLevel::scalar, 1);
      return results_by_token(scalar, x, {}, false, layer);
    }();
    for (const CpuLevel level : available_cpu_levels()) {
      CpuOps ops = ops_at(level, 2);
      const auto batch = results_by_token(ops, x, {}, false, layer);
      for (int64_t t = 0; t < 13; ++t) {
        ASSERT_TRUE(same_bits(batch[static_cast<size_t>(t)], expected[static_cast<size_t>(t)])) << name(level);
        ASSERT_TRUE(same_bits(results_by_token(ops, x.rows(t, t + 1), {}, false, layer).front(),
                              expected[static_cast<size_t>(t)]))
            << name(level);
      }
      const Activations in = ops.prepare(x, {}, true);
      const Tensor y = ops.matmul(in, layer.projections).front();
      const Reference reference(layer.weights[0], {}, x);
      for (size_t i = 0; i < reference.y.size(); ++i)
        ASSERT_NEAR(y.data<float>()[i], reference.y[i], kFloatBound * reference.norms[i]) << name(level);
    }
  }
}

// All kinds in one call, so that the threads' pieces cross from one matrix to the next, against one call each.
TEST(MatMul, SeveralMatricesAtOnce) {
  constexpr int64_t kCols = 128;
  Dice dice(6);
  Layer layer;
  for (const Kind& kind : all_kinds()) layer.add(random_weight(kind, dice.between(1, 140), kCols, dice), dice);
  for (const CpuLevel level : available_cpu_levels())
    for (const int threads : {1, 3})
      for (const int64_t tokens : {1, 5}) {
        CpuOps ops = ops_at(level, threads);
        const Activations in = ops.prepare(random_tensor(tokens, kCols, dice), make_rotation(kCols, 1), false);
        const std::vector<Tensor> all = ops.matmul(in, layer.projections);
        ASSERT_EQ(all.size(), layer.projections.size());
        for (size_t p = 0; p < all.size(); ++p)
          EXPECT_TRUE(same_bytes(all[p], ops.matmul(in, {&layer.projections[p], 1}).front())) << p << name(level);
        EXPECT_TRUE(ops.matmul(in, {}).empty());
      }
}

// A zero input gives the bias exactly, with and without int8.
TEST(MatMul, ZeroInputsGiveTheBias) {
  Dice dice(7);
  for (const Kind& kind : all_kinds()) {
    Layer layer;
    layer.add(random_weight(kind, 20, 64, dice), dice);
    layer.add(random_weight(kind, 20, 64, dice), dice);
    for (const CpuLevel level : available_cpu_levels())
      for (const bool exact : {true, false})
        for (const int64_t tokens : {1, 3}) {
          CpuOps ops = ops_at(level, 1);
          const Activations in = ops.prepare(Tensor::zeros(DType::f32, {tokens, 64}), make_rotation(64, 1), exact);
          const std::vector<Tensor> y = ops.matmul(in, layer.projections);
          for (int64_t i = 0; i < tokens * 20; ++i) {
            ASSERT_EQ(y[0].data<float>()[i], 0) << kind.name << " " << name(level);
            ASSERT_EQ(y[1].data<float>()[i], layer.biases[1].data<float>()[i % 20]) << kind.name << " " << name(level);
          }
        }
  }
}

TEST(MatMul, AnObserverSeesProductsAndMaySkipThem) {
  Dice dice(12);
  CpuOps ops(std::make_shared<ThreadPool>(2), cpu_level());
  const Weight weight = random_weight(all_kinds().front(), 24, 32, dice);
  const Activations x = ops.prepare(random_tensor(3, 32, dice), Rotation{}, true);
  const Projection projection{&weight, nullptr};
  const Tensor expected = ops.matmul(x, {&projection, 1}).front();
  int seen = 0;
  bool wanted = true;
  ops.observe_products([&](std::span<const Product> products) {
    EXPECT_EQ(products.size(), 1U);
    EXPECT_EQ(products.front().x, &x);
    EXPECT_EQ(products.front().projection.weight, &weight);
    ++seen;
    return wanted;
  });
  const Tensor computed = ops.matmul(x, {&projection, 1}).front();
  wanted = false;
  const Tensor skipped = ops.matmul(x, {&projection, 1}).front();
  ops.observe_products({});
  const Tensor after = ops.matmul(x, {&projection, 1}).front();
  EXPECT_EQ(seen, 2);
  for (int64_t i = 0; i < expected.elements(); ++i) {
    EXPECT_EQ(computed.data<float>()[i], expected.data<float>()[i]);
    EXPECT_EQ(after.data<float>()[i], expected.data<float>()[i]);
    EXPECT_EQ(skipped.data<float>()[i], 0);
  }
}

TEST(MatMul, SaysWhatDoesNotFit) {
  Dice dice(8);
  CpuOps ops = ops_at(detected_cpu_level(), 1);
  const Weight weight = random_weight(all_kinds()[0], 10, 64, dice);
  const Projection plain{&weight, nullptr};
  const Activations narrow = ops.prepare(random_tensor(2, 32, dice), {}, false);
  EXPECT_EQ(error_of([&] { ops.matmul(narrow, {&plain, 1}); }), "matmul: the matrix has 64 columns, its input has 32");
  const Activations in = ops.prepare(random_tensor(2, 64, dice), {}, false);
  const Tensor bias = Tensor::zeros(DType::f32, {9}), half = Tensor::zeros(DType::f16, {10});
  const Projection wrong_length{&weight, &bias}, wrong_type{&weight, &half};
  EXPECT_EQ(error_of([&] { ops.matmul(in, {&wrong_length, 1}); }), "matmul: bias must be F32 [10], got F32 [9]");
  EXPECT_EQ(error_of([&] { ops.matmul(in, {&wrong_type, 1}); }), "matmul: bias must be F32 [10], got F16 [10]");
  EXPECT_EQ(error_of([&] {
              ops.prepare(Tensor::zeros(DType::f16, {2, 64}), {}, true);
            }),
            "prepare: x must be F32 of rank 2, got F16 [2, 64]");
  EXPECT_EQ(error_of([&] { ops.prepare(Tensor::zeros(DType::f32, {64}), {}, true); }),
            "prepare: x must be F32 of rank 2, got F32 [64]");
  EXPECT_EQ(error_of([&] { ops.prepare(random_tensor(2, 64, dice), make_rotation(32, 1), true); }),
            "prepare: width of the rotation is 32, expected 64");
  EXPECT_EQ(error_of([&] { ops.prepare(random_tensor(2, 50, dice), {}, false); }),
            "prepare: int8 activations need a width that is a multiple of 16, got 50");
}

}  // namespace
}  // namespace turboquant
