// Conversions in tests.
#pragma once

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "convert/conversion.h"
#include "convert/options.h"
#include "models/forward.h"
#include "models/test_checkpoint.h"
#include "nn/linear.h"
#include "quant/rotation.h"

namespace turboquant {

/// A spec of tcq16, original or affine.
inline ConversionSpec spec_of(const std::string& format, double bits, int group_size = 64) {
  ConversionSpec spec;
  spec.linear = quant_spec(format, bits, group_size);
  return spec;
}

inline std::unique_ptr<Checkpoint> converted(const Checkpoint& source, const ConversionSpec& spec) {
  return convert_in_memory(source, Conversion(source, spec), *two_threads());
}

/// 64-bit FNV-1a of the bytes, in hexadecimal.
inline std::string checksum(const Tensor& tensor) {
  uint64_t value = 0xcbf29ce484222325;
  for (size_t i = 0; i < tensor.bytes(); ++i) value = (value ^ tensor.data<uint8_t>()[i]) * 0x100000001b3;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

/// Equal names, types, shapes and bytes.
inline void expect_same_tensors(const Checkpoint& a, const Checkpoint& b) {
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (size_t i = 0; i < a.tensors().size(); ++i) {
    const TensorInfo &x = a.tensors()[i], &y = b.tensors()[i];
    ASSERT_EQ(describe(x), describe(y));
    const Tensor of_a = a.read(x.name), of_b = b.read(y.name);
    ASSERT_EQ(of_a.dtype(), x.dtype) << x.name;
    ASSERT_EQ(of_a.shape(), x.shape) << x.name;
    ASSERT_EQ(of_a.bytes(), of_b.bytes()) << x.name;
    EXPECT_EQ(std::memcmp(of_a.data<char>(), of_b.data<char>(), of_a.bytes()), 0) << x.name;
  }
}

/// The checkpoint's matrices decoded and rotated back: a plain model that computes the same.
inline TestCheckpoint decompressed(const Checkpoint& checkpoint, const Checkpoint& source) {
  TestCheckpoint plain(source);
  Loader loader(checkpoint);
  for (const TensorInfo& info : source.tensors()) {
    if (info.shape.rank() != 2) continue;
    const int64_t rows = info.shape[0], cols = info.shape[1];
    const Linear layer = loader.linear(std::string(module_of(info.name)), rows, cols);
    std::vector<float> values(static_cast<size_t>(rows * cols));
    decode_rows(layer.weight, 0, rows, values.data());
    if (layer.rotation)
      for (int64_t r = 0; r < rows; ++r)
        rotate_inverse(layer.rotation, values.data() + r * cols, values.data() + r * cols);
    plain.set(info.name, from_float(values.data(), {rows, cols}, DType::f32));
    // A format may round biases: the original stores them in half precision.
    const std::string bias = std::string(module_of(info.name)) + ".bias";
    if (layer.bias && source.find(bias) != nullptr) plain.set(bias, layer.bias);
  }
  return plain;
}

}  // namespace turboquant
