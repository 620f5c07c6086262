// Reads the fixtures that scripts/make_quant_fixtures.py makes: arrays, each a line "name dtype dim dim ..." and its
// bytes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "core/tensor.h"

namespace turboquant {

using Fixture = std::map<std::string, Tensor>;

inline Fixture read_fixture(const std::string& file) {
  const std::string path = std::string(TURBOQUANT_TEST_DATA) + "/quant/" + file;
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error("cannot read " + path);
  const std::map<std::string, DType> dtypes = {
      {"f32", DType::f32}, {"f16", DType::f16}, {"u32", DType::u32}, {"u8", DType::u8}, {"i8", DType::i8}};
  Fixture arrays;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string name, dtype;
    words >> name >> dtype;
    std::vector<int64_t> dims;
    for (int64_t dim = 0; words >> dim;) dims.push_back(dim);
    Tensor tensor = Tensor::zeros(dtypes.at(dtype), Shape(std::span<const int64_t>(dims)));
    in.read(tensor.data<char>(), static_cast<std::streamsize>(tensor.bytes()));
    if (!in) throw Error(path + " is truncated");
    arrays[name] = tensor;
  }
  return arrays;
}

/// Two tensors have equal bytes.
inline bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data<char>(), b.data<char>(), a.bytes()) == 0;
}

/// sum (a - b)^2 / sum a^2
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(a[i]) * a[i];
  }
  return difference / norm;
}

/// The message of the Error that `action` throws; a failed expectation if it throws none.
template <typename Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

}  // namespace turboquant
