#include "quant/rotation.h"

#include <cmath>
#include <random>
#include <string>

#include "core/random.h"
#include "quant/fixture.h"

namespace turboquant {
namespace {

std::vector<float> random_vector(int64_t width, uint64_t seed = 1) { return random_normal(seed, width); }

std::string signs_text(uint64_t seed, int64_t width) {
  const Tensor signs = make_signs(width, seed);
  std::string text;
  for (int i = 0; i < 32; ++i) text += signs.data<float>()[i] > 0 ? '+' : '-';
  return text;
}

TEST(Rotation, RandomBitsAndSignsAreTheOriginals) {
  EXPECT_EQ(random_bits(5, 4), (std::vector<uint32_t>{3594430910u, 534832770u, 1784718894u, 3813648515u}));
  EXPECT_EQ(signs_text(42, 64), "-+++---+--+-+-+-+--+-++-+++-++-+");
  EXPECT_EQ(signs_text(43, 64), "++-+++-+-++-++-++----+--++-+-++-");
  EXPECT_EQ(42 + path_hash("model.layers.0.self_attn.q_proj"), 62426477u);
  EXPECT_EQ(signs_text(62426477, 192), "+++--++++--+--++--++-+--+-----+-");
}

TEST(Rotation, BlocksOfKnownWidths) {
  const std::pair<int64_t, int64_t> blocks[] = {
      {1, 1},       {576, 192},     {896, 896},   {960, 320},   {1536, 1536}, {1792, 1792},  {1920, 640},   {2880, 320},
      {3584, 3584}, {4864, 256},    {8960, 1792}, {9728, 512},  {11008, 256}, {13824, 1536}, {64, 64},      {640, 640},
      {320, 320},   {14336, 14336}, {18944, 512}, {29568, 896}, {2560, 2560}, {3072, 3072},  {28672, 28672}};
  for (const auto& [width, block] : blocks) EXPECT_EQ(hadamard_block(width), block) << width;
  EXPECT_THROW(hadamard_block(0), Error);
}

TEST(Rotation, BitExactWithTheOriginalAtEveryLevel) {
  const Fixture fixture = read_fixture("hadamard.bin");
  for (const CpuLevel level : available_cpu_levels())
    for (const int64_t width : {12, 40, 64, 576, 640, 896, 2880}) {
      const std::string w = std::to_string(width);
      const int64_t block = hadamard_block(width);
      EXPECT_EQ(block, fixture.at("block" + w).data<uint32_t>()[0]);
      Tensor x = Tensor::zeros(DType::f32, {width});
      std::copy_n(fixture.at("x" + w).data<float>(), width, x.data<float>());
      hadamard_at(level, x.data<float>(), width, block);
      EXPECT_TRUE(same_bytes(x, fixture.at("y" + w))) << "width " << width << ", " << name(level);
    }
}

// Every order up to 28 * 512 against the scalar level: other vector widths walk other loops, the bits must not change.
TEST(Rotation, AllLevelsGiveTheSameBits) {
  for (const int64_t m : {1, 12, 20, 28})
    for (int64_t block = m; block <= m * 512; block *= 2) {
      const std::vector<float> x = random_vector(3 * block, static_cast<uint64_t>(block));
      std::vector<float> expected = x, expected_inverse = x;
      hadamard_at(CpuLevel::scalar, expected.data(), 3 * block, block);
      hadamard_inverse_at(CpuLevel::scalar, expected_inverse.data(), 3 * block, block);
      for (const CpuLevel level : available_cpu_levels()) {
        std::vector<float> y = x, z = x;
        hadamard_at(level, y.data(), 3 * block, block);
        hadamard_inverse_at(level, z.data(), 3 * block, block);
        EXPECT_EQ(y, expected) << block << " " << name(level);
        EXPECT_EQ(z, expected_inverse) << block << " " << name(level);
      }
    }
}

TEST(Rotation, MatrixIsOrthonormalAndItsInverseTheTranspose) {
  for (const int64_t width : {64, 576, 896, 960, 1536, 2880, 640, 320}) {
    const int64_t block = hadamard_block(width);
    const double entry = 1 / std::sqrt(static_cast<double>(block));
    std::vector<std::vector<float>> columns;  // a few unit vectors through H
    for (const int64_t i : {int64_t{0}, int64_t{1}, block / 2, block - 1}) {
      std::vector<float> e(static_cast<size_t>(width)), back;
      e[static_cast<size_t>(i)] = 1;
      std::vector<float> column = e;
      hadamard(column.data(), width, block);
      for (int64_t j = 0; j < width; ++j)
        ASSERT_NEAR(std::fabs(column[static_cast<size_t>(j)]), j < block ? entry : 0, 1e-6) << width;
      back = column;
      hadamard_inverse(back.data(), width, block);
      for (size_t j = 0; j < e.size(); ++j) ASSERT_NEAR(back[j], e[j], 1e-6) << width;
      columns.push_back(column);
    }
    for (size_t a = 0; a < columns.size(); ++a)
      for (size_t b = 0; b < a; ++b) {
        double dot = 0;
        for (size_t j = 0; j < columns[a].size(); ++j) dot += static_cast<double>(columns[a][j]) * columns[b][j];
        EXPECT_NEAR(dot, 0, 1e-6) << width;
      }
  }
}

TEST(Rotation, RotateKeepsProductsAndIsUndone) {
  for (const int64_t width : {64, 576, 896, 960, 1536, 2880, 640, 320}) {
    const Rotation rotation = make_rotation(width, 7);
    const std::vector<float> x = random_vector(width, 2), y = random_vector(width, 3);
    std::vector<float> x_rot(x.size()), y_rot(x.size()), back = x;
    rotate(rotation, x.data(), x_rot.data());
    rotate(rotation, y.data(), y_rot.data());
    double dot = 0, dot_rot = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      dot += static_cast<double>(x[i]) * y[i];
      dot_rot += static_cast<double>(x_rot[i]) * y_rot[i];
    }
    EXPECT_NEAR(dot, dot_rot, 1e-4 * static_cast<double>(width)) << width;
    rotate(rotation, back.data(), back.data());  // in place
    EXPECT_EQ(back, x_rot);
    rotate_inverse(rotation, back.data(), back.data());
    EXPECT_LT(relative_error(x, back), 1e-12) << width;
  }
}

TEST(Rotation, RejectsWhatDoesNotExist) {
  std::vector<float> x(36);
  EXPECT_NE(error_of([&] { hadamard(x.data(), 36, 36); }).find("no Hadamard transform"), std::string::npos);
  EXPECT_NE(error_of([&] { hadamard(x.data(), 36, 8); }).find("divide the width"), std::string::npos);
  EXPECT_NE(error_of([&] { rotate(Rotation{}, x.data(), x.data()); }).find("no signs"), std::string::npos);
}

}  // namespace
}  // namespace turboquant
