// Prefill with AMX: matrix products of bytes (AMX-INT8). Decoding is AVX-512's, as are all other kernels of this level.
// Not run on a processor so far: amx_panels.h says what was.
#include "ops/cpu/amx_panels.h"

namespace turboquant {
namespace {

/// The processor's tile registers. Instructions are written out: GCC 12's intrinsics want a register's number as text,
/// which no template has, and do not tell the compiler that they read memory.
class CpuTiles {
 public:
  explicit CpuTiles(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  ~CpuTiles() { asm volatile("tilerelease"); }
  CpuTiles(const CpuTiles&) = delete;
  CpuTiles& operator=(const CpuTiles&) = delete;

  template <int kTile>
  void zero(TileNumber<kTile>) {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void load(TileNumber<kTile>, const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void store(TileNumber<kTile>, void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kSums, int kFirst, int kSecond>
  void dot(TileNumber<kSums>, TileNumber<kFirst>, TileNumber<kSecond>) {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kFirst), "i"(kSecond));
  }
};

struct PeakConfig : TileConfig {
  constexpr PeakConfig() {
    for (int i = 0; i < 8; ++i) set(i, 16, 64);
  }
};
constexpr PeakConfig kPeakConfig;

}  // namespace

int64_t peak_int8_amx(int64_t repeats) {
  constexpr int kChains = 6;  // all registers but the operands; more than latency times instructions a cycle
  alignas(64) uint8_t bytes[16 * 64];
  std::memset(bytes, 3, sizeof bytes);
  CpuTiles tiles(kPeakConfig);
  unroll<8>([&](auto i) TURBOQUANT_INLINE { tiles.load(i, bytes, 64); });
  for (int64_t r = 0; r < repeats; ++r)
    unroll<kChains>([&](auto i) TURBOQUANT_INLINE { tiles.dot(i, TileNumber<kChains>(), TileNumber<kChains + 1>()); });
  return repeats * kChains * 16 * 16 * 64;
}

void tile_panel_amx(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) {
  ordered_tile_panel(kAvx512Kernels.tile_panel, bits, blocks, groups, panel);
}

void panel_dot_amx(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
                   int32_t* out) {
  amx_panel_dot<CpuTiles>(panel0, panel1, groups, x, tokens, out);
}

}  // namespace turboquant
