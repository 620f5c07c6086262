// Validation of what ops are given: errors that say what was given and what was expected.
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor.h"

namespace turboquant {

inline void expect(const Tensor& x, DType dtype, size_t rank, const char* op, const char* what) {
  if (x.dtype() != dtype || x.shape().rank() != rank)
    throw Error(std::string(op) + ": " + what + " must be " + std::string(name(dtype)) + " of rank " +
                std::to_string(rank) + ", got " + std::string(name(x.dtype())) + " " + to_string(x.shape()));
}

inline void expect(const Tensor& x, DType dtype, const Shape& shape, const char* op, const char* what) {
  if (x.dtype() != dtype || x.shape() != shape)
    throw Error(std::string(op) + ": " + what + " must be " + std::string(name(dtype)) + " " + to_string(shape) +
                ", got " + std::string(name(x.dtype())) + " " + to_string(x.shape()));
}

inline void expect_equal(int64_t given, int64_t expected, const char* op, const char* what) {
  if (given != expected)
    throw Error(std::string(op) + ": " + what + " is " + std::to_string(given) + ", expected " +
                std::to_string(expected));
}

inline void expect_below(int64_t given, int64_t end, const char* op, const char* what) {
  if (given < 0 || given >= end)
    throw Error(std::string(op) + ": " + what + " is " + std::to_string(given) + ", expected 0 to " +
                std::to_string(end - 1));
}

}  // namespace turboquant
