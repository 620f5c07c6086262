#include "quant/kv_original.h"

#include <string>
#include <vector>

#include "core/half.h"
#include "quant/original.h"
#include "quant/rotation.h"

namespace turboquant {

int64_t original_kv_group(int64_t head_dim, int64_t group_size) {
  int64_t group = group_size;
  while (group >= 8 && head_dim % group != 0) group /= 2;
  if (group < 8)
    throw Error("no groups of " + std::to_string(group_size) + " or less divide a head_dim of " +
                std::to_string(head_dim));
  return group;
}

Rotation original_kv_rotation(KvSide side, int64_t head_dim, uint64_t seed) {
  return make_rotation(head_dim, side == KvSide::keys ? seed : seed + 1);
}

void original_kv_encode(int bits, int64_t group, const Rotation& rotation, const float* x, int64_t n, uint32_t* words,
                        uint16_t* scales) {
  const int64_t dim = rotation.signs.elements();
  std::vector<float> rotated(static_cast<size_t>(n * dim));
  for (int64_t i = 0; i < n; ++i) rotate(rotation, x + i * dim, rotated.data() + i * dim);
  original_encode_rows(bits, group, rotated.data(), n, dim, words, scales);
}

void original_kv_decode(int bits, int64_t group, const Rotation& rotation, const uint32_t* words,
                        const uint16_t* scales, int64_t n, uint16_t* out) {
  const int64_t dim = rotation.signs.elements(), per_word = original_codes_per_word(bits);
  const Tensor codebook = original_codebook(bits);
  const auto* centroids = codebook.data<uint16_t>();
  std::vector<float> x(static_cast<size_t>(dim));
  for (int64_t row = 0; row < n; ++row, words += original_words(bits, dim), scales += dim / group, out += dim) {
    for (int64_t i = 0; i < dim; ++i) {
      const uint32_t code = words[i / per_word] >> (bits * (i % per_word)) & ((1U << bits) - 1);
      // A product of two halves, rounded to half.
      x[static_cast<size_t>(i)] =
          half_to_float(float_to_half(half_to_float(centroids[code]) * half_to_float(scales[i / group])));
    }
    hadamard(x.data(), dim, rotation.block);
    for (int64_t i = 0; i < dim; ++i)
      out[i] = float_to_half(x[static_cast<size_t>(i)] * rotation.signs.data<float>()[i]);
  }
}

}  // namespace turboquant
