#include "core/random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <tuple>
#include <utility>

namespace turboquant {
namespace {

std::pair<uint32_t, uint32_t> threefry(uint32_t key0, uint32_t key1, uint32_t x0, uint32_t x1) {
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key0, key1, 0x1BD11BDAu ^ key0 ^ key1};
  x0 += keys[0];
  x1 += keys[1];
  for (uint32_t round = 0; round < 5; ++round) {
    for (const int rotation : kRotations[round % 2]) {
      x0 += x1;
      x1 = std::rotl(x1, rotation) ^ x0;
    }
    x0 += keys[(round + 1) % 3];
    x1 += keys[(round + 2) % 3] + round + 1;
  }
  return {x0, x1};
}

// The key that CPython makes of PYTHONHASHSEED: bytes from a linear congruential generator, lowest first.
std::pair<uint64_t, uint64_t> python_hash_key(uint32_t seed) {
  uint64_t key[2] = {};
  if (seed == 0) return {0, 0};
  for (uint64_t& word : key)
    for (int shift = 0; shift < 64; shift += 8) {
      seed = seed * 214013 + 2531011;
      word |= uint64_t{seed >> 16 & 0xff} << shift;
    }
  return {key[0], key[1]};
}

uint64_t siphash13(std::string_view data, const std::pair<uint64_t, uint64_t>& key) {
  uint64_t v0 = 0x736f6d6570736575 ^ key.first, v1 = 0x646f72616e646f6d ^ key.second;
  uint64_t v2 = 0x6c7967656e657261 ^ key.first, v3 = 0x7465646279746573 ^ key.second;
  const auto round = [&] {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  };
  const auto word = [&](size_t at, size_t count) {
    uint64_t m = 0;
    for (size_t i = 0; i < count; ++i) m |= uint64_t{static_cast<uint8_t>(data[at + i])} << (8 * i);
    return m;
  };
  const size_t whole = data.size() / 8 * 8;
  for (size_t at = 0; at < whole; at += 8) {
    const uint64_t m = word(at, 8);
    v3 ^= m;
    round();
    v0 ^= m;
  }
  const uint64_t last = word(whole, data.size() - whole) | uint64_t{data.size() & 0xff} << 56;
  v3 ^= last;
  round();
  v0 ^= last;
  v2 ^= 0xff;
  for (int i = 0; i < 3; ++i) round();
  return v0 ^ v1 ^ v2 ^ v3;
}

}  // namespace

std::vector<uint32_t> random_bits(uint64_t seed, int64_t n) {
  const auto key0 = static_cast<uint32_t>(seed >> 32), key1 = static_cast<uint32_t>(seed);
  std::vector<uint32_t> bits(static_cast<size_t>(n));
  const auto half = static_cast<uint32_t>(n / 2), odd = static_cast<uint32_t>(n % 2);
  for (uint32_t i = 0; i < half; ++i) std::tie(bits[i], bits[half + odd + i]) = threefry(key0, key1, i, half + odd + i);
  if (odd != 0) bits[half] = threefry(key0, key1, half, 0).first;
  return bits;
}

std::vector<float> random_uniform(uint64_t seed, int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  const std::vector<uint32_t> bits = random_bits(seed, n);
  const float below_one = std::nextafter(1.0F, 0.0F);
  std::transform(bits.begin(), bits.end(), values.begin(),
                 [=](uint32_t b) { return std::min(static_cast<float>(b) / 4294967295.0F, below_one); });
  return values;
}

std::vector<float> random_normal(uint64_t seed, int64_t n) {
  const int64_t pairs = (n + 1) / 2;
  const std::vector<uint32_t> bits = random_bits(seed, 2 * pairs);
  std::vector<float> values(static_cast<size_t>(2 * pairs));
  for (int64_t i = 0; i < pairs; ++i) {
    const double u = (static_cast<double>(bits[2 * i]) + 1) * 0x1p-32;
    const double angle = 2 * std::numbers::pi * static_cast<double>(bits[2 * i + 1]) * 0x1p-32;
    const double radius = std::sqrt(-2 * std::log(u));
    values[2 * i] = static_cast<float>(radius * std::cos(angle));
    values[2 * i + 1] = static_cast<float>(radius * std::sin(angle));
  }
  values.resize(static_cast<size_t>(n));
  return values;
}

uint64_t path_hash(std::string_view path, uint32_t hash_seed) {
  const auto hash = static_cast<int64_t>(siphash13(path, python_hash_key(hash_seed)));
  return static_cast<uint64_t>(hash == -1 ? -2 : hash) & 0x7fffffffu;
}

}  // namespace turboquant
