// Memory of op results: two bump allocators that take turns. A step that makes the same sequence of requests gets the
// same addresses, and allocates nothing after the first. Several threads may allocate at the same time.
#pragma once

#include <array>
#include <cstddef>
#include <mutex>
#include <vector>

#include "core/tensor.h"

namespace turboquant {

class Arena {
 public:
  /// Turns to the other half and frees what it held.
  void begin_scope() {
    current_ = 1 - current_;
    halves_[current_].chunk = 0;
    halves_[current_].used = 0;
  }

  Tensor allocate(DType dtype, Shape shape) {
    constexpr size_t kAlignment = 64;
    const size_t bytes =
        (static_cast<size_t>(shape.elements()) * item_size(dtype) + kAlignment) / kAlignment * kAlignment;
    const std::lock_guard lock(mutex_);
    Half& half = halves_[current_];
    while (half.chunk < half.chunks.size() && half.used + bytes > half.chunks[half.chunk].bytes()) {
      ++half.chunk;
      half.used = 0;
    }
    if (half.chunk == half.chunks.size())
      half.chunks.push_back(Tensor::zeros(DType::u8, {static_cast<int64_t>(std::max(bytes, kChunk))}));
    std::byte* data = half.chunks[half.chunk].data<std::byte>() + half.used;
    half.used += bytes;
    return {dtype, shape, data, nullptr};
  }

 private:
  static constexpr size_t kChunk = size_t{1} << 20;
  struct Half {
    std::vector<Tensor> chunks;
    size_t chunk = 0, used = 0;
  };
  std::mutex mutex_;
  std::array<Half, 2> halves_;
  int current_ = 0;
};

}  // namespace turboquant
