#include "core/mxfp4.h"

#include <cmath>
#include <cstddef>

#include "core/half.h"

namespace turboquant {

const std::array<std::array<uint16_t, 16>, 256>& mxfp4_values() {
  static const auto table = [] {
    constexpr float kMagnitudes[8] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
    std::array<std::array<uint16_t, 16>, 256> values{};
    for (size_t scale = 0; scale < 256; ++scale)
      for (size_t code = 0; code < 16; ++code) {
        const float value =
            std::ldexp(code < 8 ? kMagnitudes[code] : -kMagnitudes[code - 8], static_cast<int>(scale) - 127);
        values[scale][code] = float_to_bfloat(scale == 255 ? std::nanf("") : value);
      }
    return values;
  }();
  return table;
}

void decode_mxfp4(const uint8_t* codes, const uint8_t* scales, int64_t blocks, uint16_t* out) {
  const auto& values = mxfp4_values();
  for (int64_t b = 0; b < blocks; ++b) {
    const std::array<uint16_t, 16>& table = values[scales[b]];
    for (int64_t i = 0; i < kMxfp4Block / 2; ++i, ++codes) {
      *out++ = table[*codes & 15];
      *out++ = table[*codes >> 4];
    }
  }
}

}  // namespace turboquant
