// A tensor: element type, shape and where the bytes lie. Copies share the bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "core/dtype.h"
#include "turboquant/error.h"

namespace turboquant {

/// Dimensions, outermost first. At most kMaxRank of them, so that no tensor on the way through a model allocates.
class Shape {
 public:
  static constexpr size_t kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) : rank_(dims.size()) {
    if (rank_ > kMaxRank)
      throw Error("tensor of rank " + std::to_string(rank_) + ": at most 6 dimensions are supported");
    for (size_t i = 0; i < rank_; ++i) dims_[i] = dims[i];
  }

  size_t rank() const { return rank_; }
  int64_t operator[](size_t i) const { return dims_[i]; }
  int64_t back() const { return dims_[rank_ - 1]; }
  /// Product of all dimensions; 1 for a scalar. Readers of files check for overflow before they build a Shape.
  int64_t elements() const {
    int64_t n = 1;
    for (size_t i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  bool operator==(const Shape& other) const = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  size_t rank_ = 0;
};

/// "[576, 1536]"
std::string to_string(const Shape& shape);

class Tensor {
 public:
  Tensor() = default;
  /// A view of bytes that `owner` keeps alive (a mapped file, an arena, a buffer).
  Tensor(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> owner)
      : dtype_(dtype),
        shape_(shape),
        data_(static_cast<std::byte*>(const_cast<void*>(data))),
        owner_(std::move(owner)) {}

  /// New zeroed memory, 64-byte aligned.
  static Tensor zeros(DType dtype, Shape shape);

  explicit operator bool() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(size_t i) const { return shape_[i]; }
  int64_t elements() const { return shape_.elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * item_size(dtype_); }

  /// The elements as T, whose size must be the element type's. Ops write only into tensors that they have just made.
  template <typename T>
  T* data() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* data() const {
    return reinterpret_cast<const T*>(data_);
  }

  /// Rows [begin, end) of the first dimension, sharing memory.
  Tensor rows(int64_t begin, int64_t end) const;
  /// The same bytes under another shape of as many elements.
  Tensor reshape(Shape shape) const;

 private:
  DType dtype_ = DType::f32;
  Shape shape_;
  std::byte* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

/// Copies floats of any is_float() type into F32 memory; any other type is an error.
void to_float(const Tensor& tensor, float* out);
/// The same as a new F32 tensor.
Tensor to_float(const Tensor& tensor);
/// Rounds F32 to F16, BF16 or F32.
Tensor from_float(const float* values, Shape shape, DType dtype);

}  // namespace turboquant
