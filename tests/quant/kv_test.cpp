// The KV cache's format: its constants and errors, the search against an exhaustive one, and packing.
#include "quant/kv.h"

#include <cmath>

#include "core/half.h"
#include "core/random.h"
#include "quant/fixture.h"

namespace turboquant {
namespace {

constexpr KvSide kSides[] = {KvSide::keys, KvSide::values};

std::vector<float> coded(CpuLevel level, KvSide side, int bits, const std::vector<float>& x, int64_t dim) {
  std::vector<uint8_t> block(static_cast<size_t>(kv_side_bytes(bits, dim)), 0xaa);
  kv_encode_at(level, side, bits, x.data(), dim, block.data());
  std::vector<float> y(x.size());
  kv_decode(side, bits, block.data(), dim, y.data());
  return y;
}

TEST(Kv, LevelsAreThoseOfTheReference) {
  const Fixture fixture = read_fixture("kv.bin");
  for (const int bits : {2, 3, 4}) {
    const Tensor& table = fixture.at("table" + std::to_string(bits));
    ASSERT_EQ(table.elements(), 2 << bits);
    for (int i = 0; i < (2 << bits); ++i)
      EXPECT_NEAR(static_cast<float>(kv_levels(bits)[i]) * kv_unit(bits), table.data<float>()[i],
                  0.5001F * kv_unit(bits));
  }
}

TEST(Kv, ErrorIsTheReferences) {
  const Fixture fixture = read_fixture("kv.bin");
  const Tensor& x = fixture.at("x");
  const int64_t dim = x.dim(1);
  for (const int bits : {2, 3, 4}) {
    const double reference = static_cast<double>(fixture.at("error" + std::to_string(bits)).data<float>()[0]);
    for (const CpuLevel level : available_cpu_levels())
      for (const KvSide side : kSides) {
        std::vector<float> rows(static_cast<size_t>(x.elements()));  // in the reference, slot t is coordinate t
        for (int64_t i = 0; i < x.elements(); ++i)
          rows[static_cast<size_t>(i)] = x.data<float>()[i / dim * dim + kv_slot(side, dim, i % dim)];
        EXPECT_NEAR(relative_error(rows, coded(level, side, bits, rows, dim)) / reference, 1, 0.01)
            << bits << " bits, " << name(level);
      }
  }
}

TEST(Kv, ErrorOnNormalRows) {
  constexpr int64_t kDim = 128;
  const double limit[9] = {0, 0, 0.090, 0.0235, 0.0065, 0, 0, 0, 1e-4};  // measured: 0.0877, 0.0229, 0.0062
  for (const int bits : {2, 3, 4, 8}) {
    std::vector<float> x = random_normal(5, kKvBlockTokens * kDim);
    for (int64_t i = 0; i < kKvBlockTokens * kDim; ++i) x[static_cast<size_t>(i)] *= static_cast<float>(i / kDim + 1);
    for (const KvSide side : kSides) {
      const std::vector<float> y = coded(cpu_level(), side, bits, x, kDim);
      EXPECT_LT(relative_error(x, y), limit[bits]) << bits;
      double dot = 0, xx = 0, yy = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        dot += static_cast<double>(x[i]) * y[i];
        xx += static_cast<double>(x[i]) * x[i];
        yy += static_cast<double>(y[i]) * y[i];
      }
      const double cosine = dot / std::sqrt(xx * yy);
      const double least[9] = {0, 0, 0.955, 0.988, 0.9968, 0, 0, 0, 0.9999};
      EXPECT_GT(cosine, least[bits]) << bits;
    }
  }
}

/// The least squared error of 16 values over all 2^16 words of u.
double exhaustive(int bits, const double* x) {
  double least = 1e30;
  for (int word = 0; word < 1 << 16; ++word) {
    double total = 0;
    for (int t = 0; t < 16; ++t) {
      const auto u = [&](int slot) { return word >> ((slot + 16) % 16) & 1; };
      double best = 1e30;
      for (int plain = 0; plain < 1 << (bits - 1); ++plain) {
        const double e =
            x[t] - static_cast<double>(kv_unit(bits)) * kv_levels(bits)[plain << 2 | (u(t) ^ u(t - 2)) << 1 | u(t - 1)];
        best = std::min(best, e * e);
      }
      total += best;
      if (total > least) break;
    }
    least = std::min(least, total);
  }
  return least;
}

TEST(Kv, SearchIsExhaustive) {
  for (const int bits : {2, 3, 4}) {
    const std::vector<float> values = random_normal(static_cast<uint64_t>(bits), 16);
    const std::vector<double> x(values.begin(), values.end());
    uint8_t codes[16];
    const double error = kv_search(bits, x.data(), 16, codes);
    EXPECT_NEAR(error, exhaustive(bits, x.data()), 1e-9);
  }
}

TEST(Kv, FastSearchesEqualTheReference) {
  for (const CpuLevel level : available_cpu_levels())
    for (const int bits : {2, 3, 4})
      for (const int64_t dim : {16, 32, 48, 64, 80, 96, 128, 256})
        for (const KvSide side : kSides) {
          const std::vector<float> x = random_normal(static_cast<uint64_t>(dim + bits), kKvBlockTokens * dim);
          std::vector<uint8_t> block(static_cast<size_t>(kv_side_bytes(bits, dim)));
          kv_encode_at(level, side, bits, x.data(), dim, block.data());
          std::vector<int8_t> levels(x.size());
          kv_unpack(side, bits, block.data(), dim, levels.data());
          for (const int64_t token : {0, 17, 63}) {
            const float* row = x.data() + token * dim;
            double squares = 0, error = 0, dot = 0, norm = 0;
            for (int64_t i = 0; i < dim; ++i) squares += static_cast<double>(row[i]) * row[i];
            const double rms = std::sqrt(squares / static_cast<double>(dim));
            std::vector<double> slots(static_cast<size_t>(dim));
            for (int64_t i = 0; i < dim; ++i) {
              const double value = row[i] / rms, level_value = static_cast<double>(kv_unit(bits)) *
                                                               levels[static_cast<size_t>(token * dim + i)];
              slots[static_cast<size_t>(kv_slot(side, dim, i))] = value;
              error += (value - level_value) * (value - level_value);
              dot += value * level_value;
              norm += level_value * level_value;
            }
            std::vector<uint8_t> codes(static_cast<size_t>(dim));
            const double least = kv_search(bits, slots.data(), dim, codes.data());
            ASSERT_NEAR(error, least, 1e-4 * least) << name(level) << bits << " bits, dim " << dim;
            uint16_t scale = 0;
            std::memcpy(&scale, block.data() + kv_scales_offset(bits, dim) + 2 * token, 2);
            ASSERT_NEAR(half_to_float(scale), rms * dot / norm, 1e-3 * rms);
          }
        }
}

TEST(Kv, EveryValueHasAPlaceAndASlotOfItsOwn) {
  for (const int64_t dim : {16, 48, 64, 80})
    for (const KvSide side : kSides) {
      std::vector<int> places(static_cast<size_t>(64 * dim)), slots(static_cast<size_t>(dim));
      for (int64_t i = 0; i < dim; ++i) {
        ++slots[static_cast<size_t>(kv_slot(side, dim, i))];
        for (int64_t token = 0; token < kKvBlockTokens; ++token) {
          const KvPlace place = kv_place(side, dim, token, i);
          ++places[static_cast<size_t>(64 * place.vector + place.byte)];
        }
      }
      EXPECT_TRUE(std::all_of(places.begin(), places.end(), [](int n) { return n == 1; }));
      EXPECT_TRUE(std::all_of(slots.begin(), slots.end(), [](int n) { return n == 1; }));
    }
}

TEST(Kv, SizeIsBitsAndAScaleAVector) {
  for (const int64_t dim : {64, 80, 96, 128, 256})
    for (const KvBits bits : {KvBits{4, 3}, KvBits{3, 3}, KvBits{8, 2}})
      EXPECT_EQ(kv_head_bytes(bits, dim) * 8, kKvBlockTokens * (dim * (bits.keys + bits.values) + 2 * 16));
}

TEST(Kv, ZerosAndOneLargeValue) {
  constexpr int64_t kDim = 64;
  for (const int bits : {2, 3, 4, 8}) {
    std::vector<float> x(kKvBlockTokens * kDim, 0.0F);
    EXPECT_EQ(coded(cpu_level(), KvSide::keys, bits, x, kDim), x);
    x[5 * kDim + 3] = 60000;
    const std::vector<float> y = coded(cpu_level(), KvSide::values, bits, x, kDim);
    for (const float v : y) ASSERT_TRUE(std::isfinite(v));
    EXPECT_EQ(y[4 * kDim], 0);
  }
}

TEST(Kv, NamesAndErrors) {
  EXPECT_EQ(parse_kv_bits("k4v3"), (KvBits{4, 3}));
  EXPECT_EQ(parse_kv_bits("3"), (KvBits{3, 3}));
  EXPECT_EQ(parse_kv_bits("16"), (KvBits{16, 16}));
  EXPECT_FALSE(parse_kv_bits("fp16").compressed());
  for (const char* text : {"fp16", "8", "k4v3", "k8v3", "2"}) EXPECT_EQ(to_string(parse_kv_bits(text)), text);
  for (const char* text : {"", "5", "k4", "v3", "k4v5", "k4v3 ", "kv", "-3", "3.5", "v3k4", "k4v16", "k16v8"})
    EXPECT_NE(error_of([&] { parse_kv_bits(text); }).find("as in k4v3"), std::string::npos) << text;
  std::vector<float> x(64 * 24);
  std::vector<uint8_t> out(10000);
  EXPECT_NE(error_of([&] { kv_encode(KvSide::keys, 3, x.data(), 24, out.data()); }).find("multiple of 16"),
            std::string::npos);
  EXPECT_NE(error_of([&] { kv_encode(KvSide::keys, 5, x.data(), 16, out.data()); }).find("2, 3, 4 or 8"),
            std::string::npos);
}

}  // namespace
}  // namespace turboquant
