#include "quant/tile.h"

#include <algorithm>
#include <random>
#include <string>

#include "quant/fixture.h"
#include "quant/tcq16.h"
#include "quant/weight.h"

namespace turboquant {
namespace {

TEST(Tile, TablesAreTheFormats) {
  const Fixture fixture = read_fixture("tcq16.bin");
  for (int bits = 2; bits <= 4; ++bits) {
    const std::string b = std::to_string(bits);
    const Tensor& table = fixture.at("table" + b);
    EXPECT_TRUE(std::equal(table.data<int8_t>(), table.data<int8_t>() + table.elements(), tcq16_table(bits)));
    const Tensor& shift = fixture.at("shift" + b);
    EXPECT_TRUE(std::equal(shift.data<int8_t>(), shift.data<int8_t>() + 16, tcq16_shift(bits)));
    for (int index = 0; index < 16; ++index) {
      const int8_t* row = tcq16_table(bits) + (index << bits);
      EXPECT_TRUE(std::is_sorted(row, row + (1 << bits)));
      EXPECT_GE(row[0], -127);
      EXPECT_LE(row[(1 << bits) - 1] + tcq16_shift(bits)[index], 127) << "table + shift must fit an int8";
    }
  }
}

TEST(Tile, SlotsAndWeightsAreInverse) {
  for (int i = 0; i < kGroup; ++i) EXPECT_EQ(weight_slot(slot_weight(i)), i);
}

TEST(Tile, PackedBytesAndDecodedValuesAreTheReferences) {
  const Fixture fixture = read_fixture("tcq16.bin");
  const int64_t rows = fixture.at("w").dim(0), cols = fixture.at("w").dim(1), groups = cols / kGroup;
  for (int bits = 2; bits <= 4; ++bits) {
    const std::string b = std::to_string(bits);
    Weight weight = make_tiled(bits, rows, cols);
    weight.scales = fixture.at("scale" + b);
    for (int64_t tile = 0; tile < tile_count(rows); ++tile)
      pack_tile(bits, fixture.at("codes" + b).data<uint8_t>() + tile * kTileRows * cols,
                fixture.at("index" + b).data<uint8_t>() + tile * kTileRows * groups, groups,
                weight.data.data<uint8_t>() + tile * groups * block_bytes(bits));
    EXPECT_TRUE(same_bytes(weight.data, fixture.at("blocks" + b))) << bits << " bits";

    Tensor decoded = Tensor::zeros(DType::f32, {rows, cols});
    decode_rows(weight, 0, rows, decoded.data<float>());
    EXPECT_TRUE(same_bytes(decoded, fixture.at("decoded" + b))) << bits << " bits";
  }
}

TEST(Tile, Int8BlockOrder) {
  constexpr int64_t kGroups = 3;
  std::mt19937 random(8);
  std::vector<int8_t> q(kTileRows * kGroup * kGroups), unpacked(q.size());
  for (int8_t& x : q) x = static_cast<int8_t>(random() % 255 - 127);
  std::vector<uint8_t> blocks(kGroups * static_cast<size_t>(block_bytes(8)));
  pack_int8_tile(q.data(), kGroups, blocks.data());
  for (int64_t g = 0; g < kGroups; ++g)
    for (int r = 0; r < kTileRows; ++r)
      for (int j = 0; j < 4; ++j)
        for (int p = 0; p < 4; ++p)
          EXPECT_EQ(static_cast<int8_t>(blocks[static_cast<size_t>(256 * g + 64 * j + 4 * r + p)]),
                    q[static_cast<size_t>(r * kGroup * kGroups + 16 * g + 4 * j + p)]);
  unpack_tile(8, blocks.data(), kGroups, unpacked.data());
  EXPECT_EQ(unpacked, q);
}

TEST(Tile, RejectsBitsThatDoNotExist) {
  int8_t q[256];
  const uint8_t block[256] = {};
  EXPECT_NE(error_of([&] { unpack_tile(5, block, 1, q); }).find("5 bits do not exist"), std::string::npos);
  EXPECT_NE(error_of([&] { make_tiled(3, 16, 40); }).find("multiple of 16"), std::string::npos);
}

}  // namespace
}  // namespace turboquant
