#include "core/tensor.h"

#include <gtest/gtest.h>

#include <vector>

#include "io/error_of.h"

namespace turboquant {
namespace {

TEST(Shape, DimensionsElementsAndText) {
  const Shape shape = {2, 3, 5};
  EXPECT_EQ(shape.rank(), 3u);
  EXPECT_EQ(shape[1], 3);
  EXPECT_EQ(shape.back(), 5);
  EXPECT_EQ(shape.elements(), 30);
  EXPECT_EQ(to_string(shape), "[2, 3, 5]");
  EXPECT_EQ(Shape{}.elements(), 1);
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_EQ(Shape({4, 0}).elements(), 0);
  EXPECT_EQ(shape, (Shape{2, 3, 5}));
  EXPECT_NE(shape, (Shape{2, 3}));
  EXPECT_NE((Shape{2, 3, 1}), (Shape{2, 3}));
}

TEST(Shape, MoreThanSixDimensionsAreAnError) {
  EXPECT_EQ((Shape{1, 2, 3, 4, 5, 6}).elements(), 720);
  EXPECT_EQ(error_of([] { Shape({1, 1, 1, 1, 1, 1, 1}); }), "tensor of rank 7: at most 6 dimensions are supported");
}

TEST(DType, NamesAndSizes) {
  const std::pair<const char*, size_t> types[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                                                  {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},
                                                  {"I32", 4},  {"F32", 4}, {"U64", 8}, {"I64", 8},     {"F64", 8}};
  for (const auto& [text, size] : types) {
    const std::optional<DType> type = dtype_from_name(text);
    ASSERT_TRUE(type.has_value()) << text;
    EXPECT_EQ(name(*type), text);
    EXPECT_EQ(item_size(*type), size) << text;
  }
  EXPECT_FALSE(dtype_from_name("F4").has_value());
  EXPECT_FALSE(dtype_from_name("f32").has_value());
}

TEST(Tensor, NewMemoryIsZeroAndAligned) {
  for (const int64_t n : {0, 1, 63, 64, 65, 1000}) {
    const Tensor tensor = Tensor::zeros(DType::u8, {n});
    ASSERT_TRUE(tensor);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data<uint8_t>()) % 64, 0u);
    EXPECT_EQ(tensor.bytes(), static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(tensor.data<uint8_t>()[i], 0);
  }
  EXPECT_FALSE(Tensor());
}

TEST(Tensor, RowsAndReshapeShareMemoryAndKeepItAlive) {
  Tensor part;
  {
    Tensor tensor = Tensor::zeros(DType::i32, {5, 2, 3});
    for (int i = 0; i < 30; ++i) tensor.data<int32_t>()[i] = i;
    part = tensor.rows(2, 4);
    EXPECT_EQ(part.data<int32_t>(), tensor.data<int32_t>() + 12);
    EXPECT_EQ(tensor.rows(5, 5).bytes(), 0u);
  }
  EXPECT_EQ(part.shape(), (Shape{2, 2, 3}));
  const Tensor flat = part.reshape({12});
  part = Tensor();
  for (int i = 0; i < 12; ++i) EXPECT_EQ(flat.data<int32_t>()[i], 12 + i);
}

TEST(Tensor, ReshapeToAnotherNumberOfElementsIsAnError) {
  const Tensor tensor = Tensor::zeros(DType::f32, {4, 3});
  EXPECT_EQ(tensor.reshape({2, 6}).shape(), (Shape{2, 6}));
  EXPECT_EQ(error_of([&] {
              tensor.reshape({5, 2});
            }),
            "cannot reshape [4, 3] to [5, 2]: different numbers of elements");
}

TEST(Tensor, FloatsOfAllTypesAndBack) {
  // Values that every type holds exactly.
  const std::vector<float> values = {0.0F, 1.0F, -1.5F, 0.25F, 96.0F, -1024.0F};
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const Tensor stored = from_float(values.data(), {2, 3}, dtype);
    EXPECT_EQ(stored.dtype(), dtype);
    const Tensor back = to_float(stored);
    EXPECT_EQ(back.dtype(), DType::f32);
    EXPECT_EQ(back.shape(), (Shape{2, 3}));
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(back.data<float>()[i], values[i]);
  }
}

TEST(Tensor, OtherTypesAreNoFloats) {
  const float value = 1;
  EXPECT_EQ(error_of([] { to_float(Tensor::zeros(DType::i32, {1})); }),
            "expected a tensor of F32, F16 or BF16, got I32");
  EXPECT_EQ(error_of([&] { from_float(&value, {1}, DType::u8); }), "cannot store floats as U8");
}

}  // namespace
}  // namespace turboquant
