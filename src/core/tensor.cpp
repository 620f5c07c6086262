#include "core/tensor.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "core/half.h"
#include "core/memory.h"

namespace turboquant {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.rank(); ++i) text += (i != 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Tensor Tensor::zeros(DType dtype, Shape shape) {
  const size_t bytes = static_cast<size_t>(shape.elements()) * item_size(dtype);
  const size_t alignment = bytes >= 2 * kLargePage ? kLargePage : kAlignment;
  const size_t rounded = (bytes / kAlignment + 1) * kAlignment;
  void* data = nullptr;
  if (posix_memalign(&data, alignment, rounded) != 0) throw std::bad_alloc();
  if (alignment == kLargePage) use_large_pages(data, rounded);
  std::memset(data, 0, rounded);
  return {dtype, shape, data,
          std::shared_ptr<const void>(data, [](const void* p) { std::free(const_cast<void*>(p)); })};
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  std::array<int64_t, Shape::kMaxRank> dims{};
  std::copy(shape_.begin(), shape_.end(), dims.begin());
  const size_t row_bytes = shape_[0] == 0 ? 0 : bytes() / static_cast<size_t>(shape_[0]);
  dims[0] = end - begin;
  return {dtype_, Shape(std::span<const int64_t>(dims.data(), shape_.rank())),
          data_ + static_cast<size_t>(begin) * row_bytes, owner_};
}

Tensor Tensor::reshape(Shape shape) const {
  if (shape.elements() != elements())
    throw Error("cannot reshape " + to_string(shape_) + " to " + to_string(shape) + ": different numbers of elements");
  return {dtype_, shape, data_, owner_};
}

void to_float(const Tensor& tensor, float* out) {
  const int64_t n = tensor.elements();
  switch (tensor.dtype()) {
    case DType::f32:
      std::memcpy(out, tensor.data<float>(), tensor.bytes());
      return;
    case DType::f16:
      for (int64_t i = 0; i < n; ++i) out[i] = half_to_float(tensor.data<uint16_t>()[i]);
      return;
    case DType::bf16:
      for (int64_t i = 0; i < n; ++i) out[i] = bfloat_to_float(tensor.data<uint16_t>()[i]);
      return;
    default:
      throw Error("expected a tensor of F32, F16 or BF16, got " + std::string(name(tensor.dtype())));
  }
}

Tensor to_float(const Tensor& tensor) {
  Tensor result = Tensor::zeros(DType::f32, tensor.shape());
  to_float(tensor, result.data<float>());
  return result;
}

Tensor from_float(const float* values, Shape shape, DType dtype) {
  Tensor result = Tensor::zeros(dtype, shape);
  const int64_t n = result.elements();
  switch (dtype) {
    case DType::f32:
      std::memcpy(result.data<float>(), values, result.bytes());
      return result;
    case DType::f16:
      for (int64_t i = 0; i < n; ++i) result.data<uint16_t>()[i] = float_to_half(values[i]);
      return result;
    case DType::bf16:
      for (int64_t i = 0; i < n; ++i) result.data<uint16_t>()[i] = float_to_bfloat(values[i]);
      return result;
    default:
      throw Error("cannot store floats as " + std::string(name(dtype)));
  }
}

}  // namespace turboquant
