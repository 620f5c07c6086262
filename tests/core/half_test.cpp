#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/random.h"

namespace turboquant {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A format of 16 bits by its definition: a sign, exponent bits and mantissa bits; exponent 0 is subnormal, the largest
// exponent infinity and NaN.
struct Format {
  int exponent_bits, mantissa_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int special() const { return (1 << exponent_bits) - 1; }
  uint16_t infinity() const { return static_cast<uint16_t>(special() << mantissa_bits); }

  double value(uint16_t bits) const {
    const int exponent = (bits >> mantissa_bits) & special(), mantissa = bits & ((1 << mantissa_bits) - 1);
    const double sign = (bits & 0x8000) != 0 ? -1 : 1;
    if (exponent == special()) return mantissa == 0 ? sign * kInfinity : std::numeric_limits<double>::quiet_NaN();
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias() - mantissa_bits);
    return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias() - mantissa_bits);
  }

  // Nearest value, ties to even.
  uint16_t nearest(float x) const {
    const auto sign = static_cast<uint16_t>(std::signbit(x) ? 0x8000 : 0);
    const double size = std::fabs(static_cast<double>(x));
    if (std::isinf(size)) return sign | infinity();
    const int lowest = 1 - bias();
    const int exponent = size < std::ldexp(1.0, lowest) ? lowest : std::ilogb(size);
    const double steps = std::nearbyint(std::ldexp(size, mantissa_bits - exponent));
    // With the implied leading bit counted as the first step of the exponent field, a carry needs no case of its own.
    const auto bits = static_cast<int64_t>(steps) + (static_cast<int64_t>(exponent - lowest) << mantissa_bits);
    return sign | static_cast<uint16_t>(std::min<int64_t>(bits, infinity()));
  }
};

struct Conversion {
  const char* name;
  Format format;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);
};

const Conversion kConversions[] = {{"half", {5, 10}, half_to_float, float_to_half},
                                   {"bfloat", {8, 7}, bfloat_to_float, float_to_bfloat}};

TEST(Half, EveryValueWidensToItsDefinition) {
  for (const Conversion& c : kConversions)
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const float x = c.widen(static_cast<uint16_t>(bits));
      const double expected = c.format.value(static_cast<uint16_t>(bits));
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(x)) << c.name << " " << bits;
      } else {
        ASSERT_EQ(static_cast<double>(x), expected) << c.name << " " << bits;
      }
      ASSERT_EQ(std::signbit(x), (bits & 0x8000) != 0) << c.name << " " << bits;
    }
}

TEST(Half, EveryValueComesBack) {
  for (const Conversion& c : kConversions)
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const float x = c.widen(static_cast<uint16_t>(bits));
      const uint16_t back = c.narrow(x);
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(c.widen(back))) << c.name << " " << bits;
        ASSERT_EQ(back & 0x8000u, bits & 0x8000u) << c.name << " " << bits;
      } else {
        ASSERT_EQ(back, bits) << c.name;
      }
    }
}

// The middle between two neighbours, and the floats beside it, for every pair of neighbours of either sign; the last
// pair is the largest number and the power of two that would follow it, which is infinity.
TEST(Half, RoundsAtEveryMiddle) {
  for (const Conversion& c : kConversions)
    for (uint16_t bits = 0; bits < c.format.infinity(); ++bits) {
      const auto next = static_cast<uint16_t>(bits + 1);
      const double low = c.format.value(bits);
      const double high = next == c.format.infinity() ? std::ldexp(1.0, c.format.bias() + 1) : c.format.value(next);
      const auto middle = static_cast<float>((low + high) / 2);
      ASSERT_EQ(static_cast<double>(middle), (low + high) / 2);
      for (const float sign : {1.0F, -1.0F}) {
        const auto signed_bits = [&](uint16_t b) { return static_cast<uint16_t>(sign < 0 ? b | 0x8000 : b); };
        ASSERT_EQ(c.narrow(sign * middle), signed_bits(bits % 2 == 0 ? bits : next)) << c.name << " " << middle;
        ASSERT_EQ(c.narrow(sign * std::nextafter(middle, 0.0F)), signed_bits(bits)) << c.name << " " << middle;
        ASSERT_EQ(c.narrow(sign * std::nextafter(middle, kInfinity)), signed_bits(next)) << c.name << " " << middle;
      }
    }
}

TEST(Half, RandomFloatsRoundToNearest) {
  for (const Conversion& c : kConversions)
    for (const uint32_t bits : random_bits(1, 500'000)) {
      const auto x = std::bit_cast<float>(bits);
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(c.widen(c.narrow(x)))) << c.name << " " << bits;
      } else {
        ASSERT_EQ(c.narrow(x), c.format.nearest(x)) << c.name << " " << x;
      }
    }
}

}  // namespace
}  // namespace turboquant
