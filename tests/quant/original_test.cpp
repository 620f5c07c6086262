#include "quant/original.h"

#include <cmath>
#include <string>

#include "core/half.h"
#include "core/random.h"
#include "quant/fixture.h"
#include "quant/quantize.h"
#include "quant/rotation.h"

namespace turboquant {
namespace {

const std::string kPaths[] = {"model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"};

// Every slice of the converted checkpoints, from the source weights: signs, codes, scales and codebook.
TEST(Original, ConvertedCheckpointsBitForBit) {
  const Fixture fixture = read_fixture("original.bin");
  int slices = 0;
  for (const std::string& path : kPaths) {
    const Tensor& source = fixture.at(path + ".source");
    const Rotation rotation = make_rotation(source.dim(1), 42 + path_hash(path));
    EXPECT_TRUE(same_bytes(rotation.signs, fixture.at(path + ".signs")));
    for (const std::string config : {"2b-g64", "3b-g64", "3b-g32", "4b-g64"}) {
      const auto weight_of = fixture.find(config + "." + path + ".weight");
      if (weight_of == fixture.end()) continue;
      ++slices;
      const QuantSpec spec{QuantSpec::Method::original, config[0] - '0', std::stoi(config.substr(4)), DType::f16};
      const Weight weight = quantize(source, rotation, spec, nullptr);
      EXPECT_TRUE(same_bytes(weight.data, weight_of->second)) << config << " " << path;
      EXPECT_TRUE(same_bytes(weight.scales, fixture.at(config + "." + path + ".scales"))) << config << " " << path;
      EXPECT_TRUE(same_bytes(weight.codebook, fixture.at(config + ".codebook"))) << config << " " << path;
    }
  }
  EXPECT_EQ(slices, 8);
}

TEST(Original, DecodesToCentroidTimesScale) {
  constexpr int64_t kRows = 5, kCols = 192;
  const std::vector<float> w = random_normal(1, kRows * kCols);
  for (int bits = 2; bits <= 4; ++bits) {
    const Weight weight = original_encode(bits, 64, w.data(), kRows, kCols);
    EXPECT_EQ(weight.data.dim(1), (kCols + 32 / bits - 1) / (32 / bits));
    std::vector<float> decoded(w.size());
    decode_rows(weight, 0, kRows, decoded.data());
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      const float scale = half_to_float(weight.scales.data<uint16_t>()[i / 64]);
      float nearest = 1e9F;  // distance to the nearest value of the group
      for (int k = 0; k < (1 << bits); ++k)
        nearest = std::min(
            nearest, std::fabs(w[static_cast<size_t>(i)] - scale * half_to_float(weight.codebook.data<uint16_t>()[k])));
      EXPECT_LE(std::fabs(w[static_cast<size_t>(i)] - decoded[static_cast<size_t>(i)]), nearest + 2e-3F);
    }
  }
}

TEST(Original, ErrorOnGaussianWeights) {
  constexpr int64_t kRows = 64, kCols = 4096;
  const std::vector<float> w = random_normal(2, kRows * kCols);
  const double expected[] = {0.1146, 0.0335, 0.00913};
  for (int bits = 2; bits <= 4; ++bits) {
    const Weight weight = original_encode(bits, 64, w.data(), kRows, kCols);
    std::vector<float> decoded(w.size());
    decode_rows(weight, 0, kRows, decoded.data());
    EXPECT_NEAR(relative_error(w, decoded), expected[bits - 2], 0.02 * expected[bits - 2]) << bits << " bits";
  }
}

TEST(Original, RejectsWhatTheFormatLacks) {
  const std::vector<float> w(64 * 96);
  EXPECT_NE(error_of([&] { original_encode(5, 64, w.data(), 1, 64); }).find("not 5"), std::string::npos);
  EXPECT_NE(error_of([&] { original_encode(3, 48, w.data(), 1, 96); }).find("not 48"), std::string::npos);
  EXPECT_NE(error_of([&] { original_encode(3, 64, w.data(), 1, 96); }).find("multiple of 64"), std::string::npos);
}

}  // namespace
}  // namespace turboquant
