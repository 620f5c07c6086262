// AMX without such a processor: the tile registers, and what their instructions do and forbid, as the pseudo-code of
// Intel's manual (Software Developer's Manual, volume 2) has it. And where the bytes of a panel are.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "ops/cpu/amx_panels.h"

namespace turboquant {

/// Where row r, column k of a panel is at most levels, and at amx.
inline int64_t plain_panel_byte(int r, int64_t k) { return 64 * (k / 4) + 4 * r + k % 4; }
inline int64_t amx_panel_byte(int64_t groups, int r, int64_t k) {
  const int64_t step = k / 64, columns = std::min<int64_t>(64, kGroup * groups - 64 * step);
  return 1024 * step + columns * r + k % 64;
}

namespace {  // as amx_panels.h

class EmulatedTiles {
 public:
  // LDTILECFG, palette 1: 8 registers of up to 16 rows of 64 bytes.
  explicit EmulatedTiles(const TileConfig& config) : config_(config) {
    EXPECT_EQ(config.palette, 1);
    EXPECT_EQ(config.start_row, 0);
    for (const uint8_t reserved : config.reserved) EXPECT_EQ(reserved, 0);
    for (int i = 0; i < 16; ++i) {
      EXPECT_LE(config.rows[i], i < 8 ? 16 : 0) << "register " << i;
      EXPECT_LE(config.row_bytes[i], i < 8 ? 64 : 0) << "register " << i;
      EXPECT_EQ(config.rows[i] == 0, config.row_bytes[i] == 0) << "register " << i;
    }
  }

  template <int kTile>
  void zero(TileNumber<kTile>) {
    check(kTile);
    std::memset(tile_[kTile], 0, sizeof tile_[kTile]);
  }

  // Beyond the shape a register is 0.
  template <int kTile>
  void load(TileNumber<kTile>, const void* from, int64_t stride) {
    zero(TileNumber<kTile>());
    for (int r = 0; r < config_.rows[kTile]; ++r)
      std::memcpy(tile_[kTile][r], static_cast<const uint8_t*>(from) + r * stride, config_.row_bytes[kTile]);
  }

  template <int kTile>
  void store(TileNumber<kTile>, void* to, int64_t stride) {
    check(kTile);
    for (int r = 0; r < config_.rows[kTile]; ++r)
      std::memcpy(static_cast<uint8_t*>(to) + r * stride, tile_[kTile][r], config_.row_bytes[kTile]);
  }

  // TDPBUSD: dword n of row m of c += sum over k of the 4 bytes of dword k of row m of a, unsigned, times those of
  // dword n of row k of b, signed.
  template <int kC, int kA, int kB>
  void dot(TileNumber<kC>, TileNumber<kA>, TileNumber<kB>) {
    static_assert(kC != kA && kC != kB && kA != kB);
    for (const int tile : {kC, kA, kB}) {
      check(tile);
      EXPECT_EQ(config_.row_bytes[tile] % 4, 0);
    }
    EXPECT_EQ(config_.rows[kC], config_.rows[kA]);
    EXPECT_EQ(config_.row_bytes[kC], config_.row_bytes[kB]);
    EXPECT_EQ(config_.row_bytes[kA] / 4, config_.rows[kB]);
    for (int m = 0; m < config_.rows[kC]; ++m)
      for (int k = 0; k < config_.row_bytes[kA] / 4; ++k)
        for (int n = 0; n < config_.row_bytes[kC] / 4; ++n) {
          int32_t sum;
          std::memcpy(&sum, &tile_[kC][m][4 * n], sizeof sum);
          for (int i = 0; i < 4; ++i) sum += tile_[kA][m][4 * k + i] * static_cast<int8_t>(tile_[kB][k][4 * n + i]);
          std::memcpy(&tile_[kC][m][4 * n], &sum, sizeof sum);
        }
  }

 private:
  void check(int tile) const {
    EXPECT_TRUE(tile >= 0 && tile < 8 && config_.rows[tile] > 0) << "register " << tile << " has no shape";
  }

  TileConfig config_;
  uint8_t tile_[8][16][64] = {};
};

}  // namespace
}  // namespace turboquant
