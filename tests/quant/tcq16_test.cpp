#include "quant/tcq16.h"

#include <cmath>
#include <limits>
#include <string>

#include "core/half.h"
#include "core/random.h"
#include "quant/fixture.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

struct Encoded {
  Weight weight;
  std::vector<float> decoded;
};

using Encoder = void (*)(CpuLevel, int, const float*, int64_t, int64_t, uint8_t*, uint16_t*);

Encoded encode(int bits, const std::vector<float>& w, int64_t rows, int64_t cols, Encoder encoder,
               CpuLevel level = CpuLevel::scalar) {
  Encoded result{make_tiled(bits, rows, cols), std::vector<float>(w.size())};
  encoder(level, bits, w.data(), rows, cols, result.weight.data.data<uint8_t>(), result.weight.scales.data<uint16_t>());
  decode_rows(result.weight, 0, rows, result.decoded.data());
  return result;
}

void reference(CpuLevel, int bits, const float* w, int64_t rows, int64_t cols, uint8_t* blocks, uint16_t* scales) {
  tcq16_encode_rows_reference(bits, w, rows, cols, blocks, scales);
}

TEST(Tcq16, ReferenceEncoderIsTheFormatsBitForBit) {
  const Fixture fixture = read_fixture("tcq16.bin");
  const Tensor& w = fixture.at("w");
  const std::vector<float> rows(w.data<float>(), w.data<float>() + w.elements());
  for (int bits = 2; bits <= 4; ++bits) {
    const Encoded result = encode(bits, rows, w.dim(0), w.dim(1), reference);
    EXPECT_TRUE(same_bytes(result.weight.data, fixture.at("blocks" + std::to_string(bits)))) << bits;
    EXPECT_TRUE(same_bytes(result.weight.scales, fixture.at("scale" + std::to_string(bits)))) << bits;
  }
}

// The search against all 2^16 paths of u bits.
TEST(Tcq16, SearchIsExhaustive) {
  for (int bits = 2; bits <= 4; ++bits)
    for (const int index : {0, 5, 15}) {
      const std::vector<float> normal = random_normal(static_cast<uint64_t>(bits * 16 + index), kGroup);
      double x[kGroup];
      for (int i = 0; i < kGroup; ++i) x[i] = static_cast<double>(normal[static_cast<size_t>(i)]) / tcq16_unit(bits);
      const int8_t* table = tcq16_table(bits) + (index << bits);
      const int shift = tcq16_shift(bits)[index];
      double least = std::numeric_limits<double>::infinity();
      for (uint32_t u = 0; u < (1u << kGroup); ++u) {
        double error = 0;
        for (int t = 0; t < kGroup; ++t) {
          const uint32_t now = u >> t & 1, before = u >> ((t + kGroup - 1) % kGroup) & 1;
          double best = std::numeric_limits<double>::infinity();
          for (uint32_t k = now; k < (1u << bits); k += 2) {
            const double e = x[slot_weight(t)] - (table[k] + static_cast<int>(before) * shift);
            best = std::min(best, e * e);
          }
          error += best;
        }
        least = std::min(least, error);
      }
      uint8_t codes[kGroup];
      const double found = tcq16_search(bits, index, x, codes);
      EXPECT_NEAR(found, least, 1e-9 * least);
      double error = 0;  // and the codes give that error
      for (int t = 0; t < kGroup; ++t) {
        const double e = x[slot_weight(t)] - (table[codes[t]] + (codes[(t + kGroup - 1) % kGroup] & 1) * shift);
        error += e * e;
      }
      EXPECT_NEAR(error, least, 1e-9 * least);
    }
}

TEST(Tcq16, FastEncodersMatchTheReferencesError) {
  constexpr int64_t kRows = 37, kCols = 208;  // a padded tile
  std::vector<float> w = random_normal(3, kRows * kCols);
  for (int64_t i = 0; i < kRows * kCols; ++i) w[static_cast<size_t>(i)] *= 0.02F * static_cast<float>(1 + i / kCols);
  std::fill_n(w.begin() + 3 * kCols, kCols, 0.0F);
  w[static_cast<size_t>(7 * kCols + 9)] = 1000.0F;  // an outlier far beyond the tables
  for (int bits = 2; bits <= 4; ++bits) {
    const Encoded expected = encode(bits, w, kRows, kCols, reference);
    for (const CpuLevel level : available_cpu_levels()) {
      const Encoded result = encode(bits, w, kRows, kCols, tcq16_encode_rows_at, level);
      for (int64_t row = 0; row < kRows; ++row) {
        const auto slice = [&](const std::vector<float>& v) {
          return std::vector<float>(v.begin() + row * kCols, v.begin() + (row + 1) * kCols);
        };
        if (row == 3) {
          EXPECT_EQ(result.weight.scales.data<uint16_t>()[row], 0);
          EXPECT_EQ(slice(result.decoded), slice(w));
          continue;
        }
        const double error = relative_error(slice(w), slice(result.decoded));
        const double reference_error = relative_error(slice(w), slice(expected.decoded));
        EXPECT_NEAR(error, reference_error, 1e-5 * reference_error) << bits << " " << name(level) << " row " << row;
      }
      const int64_t groups = kCols / kGroup;
      const uint8_t* blocks = result.weight.data.data<uint8_t>() + 2 * groups * block_bytes(bits);
      std::vector<int8_t> q(static_cast<size_t>(kTileRows * kCols));
      unpack_tile(bits, blocks, groups, q.data());
      for (int64_t i = 0; i < (kTileRows - kRows % kTileRows) * kCols; ++i)
        ASSERT_EQ(q[static_cast<size_t>(kRows % kTileRows * kCols + i)], tcq16_table(bits)[0]) << "padding has code 0";
    }
  }
}

TEST(Tcq16, ErrorOnGaussianWeightsIsTheFormats) {
  constexpr int64_t kRows = 256, kCols = 2048;
  const std::vector<float> w = random_normal(11, kRows * kCols);
  const double expected[] = {0.0666, 0.0160, 0.00398};
  for (int bits = 2; bits <= 4; ++bits) {
    const Weight weight = tcq16_encode(bits, w.data(), kRows, kCols);
    std::vector<float> decoded(w.size());
    decode_rows(weight, 0, kRows, decoded.data());
    EXPECT_NEAR(relative_error(w, decoded), expected[bits - 2], 0.01 * expected[bits - 2]) << bits << " bits";
    EXPECT_EQ(weight.data.bytes(), static_cast<size_t>(kRows * kCols / 256 * block_bytes(bits)));
  }
}

TEST(Tcq16, TinyAndHugeRows) {
  constexpr int64_t kCols = 64;
  std::vector<float> w = random_normal(5, 3 * kCols);
  for (int64_t i = 0; i < kCols; ++i) {
    w[static_cast<size_t>(i)] *= 1e-38F;  // below what fp16 scales reach
    w[static_cast<size_t>(kCols + i)] *= 1e-4F;
  }
  for (const CpuLevel level : available_cpu_levels()) {
    const Encoded result = encode(3, w, 3, kCols, tcq16_encode_rows_at, level);
    for (const float x : result.decoded) EXPECT_TRUE(std::isfinite(x));
    EXPECT_EQ(result.weight.scales.data<uint16_t>()[0], 0);
    EXPECT_GT(result.weight.scales.data<uint16_t>()[1], 0);
  }
  w[0] = 1e9F;
  EXPECT_NE(error_of([&] { tcq16_encode(3, w.data(), 3, kCols); }).find("too large for an fp16 scale"),
            std::string::npos);
}

TEST(Tcq16, RejectsOtherBits) {
  const std::vector<float> w(256);
  EXPECT_NE(error_of([&] { tcq16_encode(5, w.data(), 16, 16); }).find("2, 3 or 4 bits, not 5"), std::string::npos);
  EXPECT_NE(error_of([&] { tcq16_encode(3, w.data(), 10, 24); }).find("multiple of 16"), std::string::npos);
}

TEST(Int8Rows, RoundToTheStoredScale) {
  constexpr int64_t kRows = 21, kCols = 80;
  std::vector<float> w = random_normal(6, kRows * kCols);
  std::fill_n(w.begin() + 4 * kCols, kCols, 0.0F);
  const Weight weight = int8_encode(w.data(), kRows, kCols);
  std::vector<float> decoded(w.size());
  decode_rows(weight, 0, kRows, decoded.data());
  for (int64_t row = 0; row < kRows; ++row) {
    const float scale = half_to_float(weight.scales.data<uint16_t>()[row]);
    float largest = 0;
    for (int64_t i = 0; i < kCols; ++i) largest = std::max(largest, std::fabs(w[static_cast<size_t>(row * kCols + i)]));
    EXPECT_EQ(scale, half_to_float(float_to_half(largest / 127)));
    for (int64_t i = row * kCols; i < (row + 1) * kCols; ++i) {
      const float bound = std::max(0.5F * scale, largest - 127 * scale) * 1.00001F;
      EXPECT_LE(std::fabs(w[static_cast<size_t>(i)] - decoded[static_cast<size_t>(i)]), bound);
    }
  }
  EXPECT_LT(relative_error(w, decoded), 5e-5);
}

}  // namespace
}  // namespace turboquant
