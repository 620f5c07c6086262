// Ops that measure themselves: the same results, and each call in its class.
#include "ops/profile.h"

#include <chrono>

#include "ops/support.h"
#include "quant/fixture.h"
#include "quant/quantize.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

Weight dense(int64_t rows, int64_t cols, Dice& dice) {
  Weight weight;
  weight.kind = Weight::Kind::dense;
  weight.rows = rows;
  weight.cols = cols;
  weight.data = from_float(dice.normals(rows * cols).data(), {rows, cols}, DType::f32);
  return weight;
}

TEST(ProfilingOps, CountEachCallInItsClass) {
  Dice dice(1);
  const auto plain = std::shared_ptr<Ops>(make_cpu_ops(std::make_shared<ThreadPool>(2)));
  const auto profile = std::make_shared<Profile>();
  const auto ops = make_profiling_ops(plain, profile);
  const auto start = std::chrono::steady_clock::now();

  ops->begin_scope();
  const Weight table = dense(50, 64, dice), matrix = dense(32, 64, dice);
  const std::vector<int32_t> ids{3, 49};
  const Tensor x = ops->embedding(table, Rotation(), ids);
  EXPECT_TRUE(same_bytes(x, plain->embedding(table, Rotation(), ids)));
  const Activations input = ops->prepare(ops->add(x, x), Rotation(), true);
  const Projection projection{&matrix, nullptr}, head{&table, nullptr};
  const Tensor y = ops->matmul(input, {&projection, 1}).front();
  EXPECT_TRUE(same_bytes(y, plain->matmul(input, {&projection, 1}).front()));
  EXPECT_EQ(ops->matmul(input, {&head, 1}).front().dim(1), 50);
  const Product products[] = {{&input, head, {}}, {&input, projection, {}}};
  EXPECT_EQ(ops->matmul_each({products, 1}).front().dim(1), 50);
  EXPECT_EQ(ops->matmul_each(products).back().dim(1), 32);

  const AttentionShape shape{2, 1, 16, 0.25F};
  std::vector<std::byte> memory(ops->page_bytes(shape, DType::f16));
  std::byte* page = memory.data();
  const Tensor keys = Tensor::zeros(DType::f32, {2, 16}), out = Tensor::zeros(DType::f32, {2, 32});
  ops->append_kv(keys, keys, shape, {DType::f16, {&page, 1}, 0});
  ops->attention(y, shape, {DType::f16, {&page, 1}, 2}, out);
  EXPECT_THROW(ops->attention(y, shape, {DType::f16, {&page, 1}, 1}, out), Error);

  // On two threads at once: both are counted, and their time is that of both together.
  ops->each(std::vector<int64_t>(8, 1), [&](Ops& own, int64_t) { own.add(x, x); });

  const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::pair<OpClass, int64_t> calls[] = {
      {OpClass::embedding, 1}, {OpClass::inputs, 1},           {OpClass::products, 2},    {OpClass::attention, 2},
      {OpClass::cache, 1},     {OpClass::linear_attention, 0}, {OpClass::elementwise, 9}, {OpClass::head, 2}};
  double sum = 0;
  for (const auto& [op, count] : calls) {
    EXPECT_EQ((*profile)[op].calls, count) << name(op);
    EXPECT_EQ((*profile)[op].seconds > 0, count > 0) << name(op);
    sum += (*profile)[op].seconds;
  }
  EXPECT_EQ(profile->seconds(), sum);
  EXPECT_LE(sum, passed);
  profile->clear();
  EXPECT_EQ(profile->seconds(), 0);
}

}  // namespace
}  // namespace turboquant
