// The algorithm of the level amx with emulated instructions (emulated_tiles.h), beside plain sums.
#include "ops/cpu/amx_panels.h"

#include "ops/emulated_tiles.h"
#include "ops/support.h"

namespace turboquant {
namespace {

constexpr int64_t kGroupBytes = kTileRows * kGroup;
constexpr int kOutStride = kTilePair * kTileRows;

std::vector<uint8_t> random_bytes(int64_t n, Dice& dice) {
  std::vector<uint8_t> bytes(static_cast<size_t>(n));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(dice.between(0, 255));
  return bytes;
}

/// amx_panel_dot of panels in this level's order, beside sums in 64 bits. x has no byte more than its shape.
void expect_sums(const std::vector<uint8_t> (&panels)[kTilePair], int64_t groups, const std::vector<int8_t>& x,
                 int tokens, int32_t before) {
  Guarded<int32_t> out(tokens * kOutStride, before);
  amx_panel_dot<EmulatedTiles>(panels[0].data(), panels[1].data(), groups, x.data(), tokens, out.data());
  for (int t = 0; t < tokens; ++t)
    for (int tile = 0; tile < kTilePair; ++tile)
      for (int r = 0; r < kTileRows; ++r) {
        int64_t sum = before;
        for (int64_t k = 0; k < kGroup * groups; ++k)
          sum += int64_t{panels[tile][static_cast<size_t>(amx_panel_byte(groups, r, k))]} *
                 x[static_cast<size_t>((k / 4 * kTokenPanel + t) * 4 + k % 4)];
        ASSERT_EQ(out[t * kOutStride + tile * kTileRows + r], sum)
            << groups << " groups, token " << t << " of " << tokens << ", tile " << tile << ", row " << r;
      }
}

TEST(AmxPanels, ProductsAreThePlainSums) {
  Dice dice(1);
  for (int64_t groups = 1; groups <= 40; ++groups)
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto tokens = static_cast<int>(repeat == 0 ? kTokenPanel : dice.between(1, kTokenPanel));
      const std::vector<uint8_t> panels[kTilePair] = {random_bytes(groups * kGroupBytes, dice),
                                                      random_bytes(groups * kGroupBytes, dice)};
      std::vector<int8_t> x(static_cast<size_t>(groups * kGroup * kTokenPanel));
      for (int8_t& value : x) value = static_cast<int8_t>(dice.between(-128, 127));
      expect_sums(panels, groups, x, tokens, static_cast<int32_t>(dice.between(-1000000, 1000000)));
      if (HasFatalFailure()) return;
    }
}

TEST(AmxPanels, EveryNumberOfTokens) {
  Dice dice(2);
  for (int tokens = 1; tokens <= kTokenPanel; ++tokens)
    for (const int64_t groups : {1, 4, 6, 11}) {
      const std::vector<uint8_t> panels[kTilePair] = {random_bytes(groups * kGroupBytes, dice),
                                                      random_bytes(groups * kGroupBytes, dice)};
      expect_sums(panels, groups, dice.int8s(groups * kGroup * kTokenPanel), tokens, 0);
      if (HasFatalFailure()) return;
    }
}

// The largest bytes are 255, not -1, and -128: as many columns as matmul multiplies at once do not overflow.
TEST(AmxPanels, ProductsOfExtremeBytes) {
  for (const int64_t groups : {3, 40, 512})
    for (const uint8_t weight : {uint8_t{0}, uint8_t{127}, uint8_t{128}, uint8_t{255}})
      for (const int8_t value : {int8_t{-128}, int8_t{-127}, int8_t{127}}) {
        const std::vector<uint8_t> panel(static_cast<size_t>(groups * kGroupBytes), weight);
        const std::vector<int8_t> x(static_cast<size_t>(groups * kGroup * kTokenPanel), value);
        expect_sums({panel, panel}, groups, x, kTokenPanel, 7);
        if (HasFatalFailure()) return;
      }
}

TEST(AmxPanels, OrderOfAPanel) {
  Dice dice(3);
  for (int64_t groups = 1; groups <= 40; ++groups) {
    const std::vector<uint8_t> plain = random_bytes(groups * kGroupBytes, dice);
    Guarded<uint8_t> panel(groups * kGroupBytes);
    order_panel(plain.data(), groups, panel.data());
    for (int r = 0; r < kTileRows; ++r)
      for (int64_t k = 0; k < kGroup * groups; ++k)
        ASSERT_EQ(panel[amx_panel_byte(groups, r, k)], plain[static_cast<size_t>(plain_panel_byte(r, k))])
            << groups << " groups, row " << r << ", column " << k;
  }
}

// A tile that is decoded in parts, from where each begins.
TEST(AmxPanels, PanelsOfATile) {
  Dice dice(4);
  for (const int bits : {2, 3, 4, 8})
    for (const int64_t groups : {1, 31, 32, 33, 64, 102}) {
      const std::vector<uint8_t> blocks = random_bytes(groups * block_bytes(bits), dice);
      Guarded<uint8_t> plain(groups * kGroupBytes), panel(groups * kGroupBytes);
      kScalarKernels.tile_panel(bits, blocks.data(), groups, plain.data());
      ordered_tile_panel(kScalarKernels.tile_panel, bits, blocks.data(), groups, panel.data());
      for (int r = 0; r < kTileRows; ++r)
        for (int64_t k = 0; k < kGroup * groups; ++k)
          ASSERT_EQ(panel[amx_panel_byte(groups, r, k)], plain[plain_panel_byte(r, k)])
              << bits << " bits, " << groups << " groups, row " << r << ", column " << k;
    }
}

}  // namespace
}  // namespace turboquant
