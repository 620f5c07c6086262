// The tile layout of compressed matrices and the tables of TCQ16: the one description from which packing, unpacking and
// all kernels are derived. Plain constants only, so that files compiled for one instruction set can include it.
//
// A row in the rotated basis, in groups of 16 columns (TCQ16, bits 2, 3, 4):
//
//     w[r][16 g + i] = scale[r] * (table[index][k] + c0 * shift[index]),    index = index[r][g], 0..15
//
// A stored code of `bits` bits is k = (plain << 1) | u. The 16 weights of a group stand in slots t = 0..15, slot t
// holds column slot_weight(t), and c0 of slot t is u of slot t - 1, of slot 15 for slot 0: a tail-biting trellis of 2
// states that needs nothing from its neighbours. All values table + c0 * shift fit an int8 (within +-127).
//
// Tiles of 16 rows, a tile its blocks of 16 columns in column order, padding rows with scale 0. Column k = 4 j + p of
// row r is byte 4 r + p of vector j (j = 0..3): one 64-byte vector holds 4 columns of 16 rows, a 32-bit lane a row, as
// a dot-product instruction of 4 bytes a lane wants it. A block is, in this order,
//
//     bits 3, 4: 64 bytes, the low two plain bits of vector j in bits 2 j and 2 j + 1 of byte 4 r + p
//     bits 2, 4: 4 little-endian words of 64 bits, bit 4 r + p of word j = the top plain bit
//     bits 2, 3, 4: 4 words of 64 bits, bit 4 r + p of word j = u (masks, ready for masked instructions)
//     bits 2, 3, 4: 8 bytes of table indices: row r in the low (r even) or high (r odd) nibble of byte r div 2
//     bits 8: 4 vectors of 64 bytes, the int8 itself
#pragma once

#include <cstdint>

namespace turboquant {

inline constexpr int kTileRows = 16;
inline constexpr int kGroup = 16;

/// Bytes of a block of 16 rows x 16 columns; 0 for bits that the tile layout does not have.
constexpr int64_t block_bytes(int bits) {
  switch (bits) {
    case 2:
      return 72;
    case 3:
      return 104;
    case 4:
      return 136;
    case 8:
      return 256;
    default:
      return 0;
  }
}

constexpr int64_t tile_count(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

/// Where the parts of a TCQ16 block begin, in bytes.
constexpr int64_t top_offset(int bits) { return bits == 4 ? 64 : 0; }  // bits 2 and 4 only
constexpr int64_t trellis_offset(int bits) { return block_bytes(bits) - 40; }
constexpr int64_t index_offset(int bits) { return block_bytes(bits) - 8; }

/// The column of the group that slot t holds, and the slot of column i: slot t - 1 of a weight is the same byte of the
/// vector before, or, for the first vector, the neighbouring byte of the last.
constexpr int slot_weight(int slot) { return 4 * (slot % 4) + slot / 4; }
constexpr int weight_slot(int column) { return 4 * (column % 4) + column / 4; }

// The constants of the format. A table is in units of the row's RMS times kUnit; the unit is part of the row scale.
inline constexpr int8_t kTable2[16 * 4] = {
    // [index][k]
    -51, -21, 9,    43,  -59, -27, 0,   32,  -69, -33, -1,  51,  -63, -19, 18,   67,  -52,  -16, 16,  66,  -80, -40,
    5,   42,  -104, -41, -8,  58,  -74, -26, 9,   85,  -72, -36, -10, 22,  -105, -63, -14,  29,  -77, -27, 12,  57,
    -77, -47, -6,   23,  -99, -53, -20, 14,  -86, -45, -13, 39,  -88, -31, 2,    36,  -126, -51, -15, 30,
};
inline constexpr int8_t kShift2[16] = {32, 29, 38, 14, 37, 56, 47, 41, 28, 63, 6, 44, 38, 37, 39, 41};

inline constexpr int8_t kTable3[16 * 8] = {
    // [index][k]
    -52, -34, -22,  -10, 2,    15,  29,  47,  -55, -35, -21,  -7,  6,   20,  36,  63,  -61, -40, -27, -13, 0,   13,
    27,  54,  -68,  -48, -32,  -18, -3,  12,  31,  66,  -79,  -52, -34, -17, -1,  15,  35,  81,  -64, -40, -24, -8,
    7,   24,  43,   78,  -101, -60, -40, -22, -5,  12,  31,   65,  -78, -48, -30, -12, 5,   24,  50,  105, -63, -42,
    -29, -16, -4,   8,   21,   38,  -75, -48, -32, -18, -4,   10,  25,  45,  -74, -44, -27, -12, 2,   17,  33,  55,
    -86, -57, -39,  -24, -10,  4,   19,  39,  -89, -53, -34,  -18, -4,  11,  27,  53,  -87, -48, -30, -13, 3,   20,
    39,  67,  -111, -67, -43,  -26, -9,  7,   25,  49,  -126, -65, -41, -22, -4,  15,  37,  84,
};
inline constexpr int8_t kShift3[16] = {13, 15, 15, 16, 18, 17, 20, 19, 13, 15, 17, 16, 17, 19, 18, 23};

inline constexpr int8_t kTable4[16 * 16] = {
    // [index][k]
    -53, -41, -33,  -26, -20,  -15, -9,  -4,  1,   7,   13,  18,  25,  31,  40,  51,  -58, -45, -36, -29, -22,  -16,
    -11, -5,  1,    7,   13,   19,  26,  34,  44,  59,  -67, -49, -38, -30, -23, -17, -11, -5,  1,   7,   14,   20,
    28,  36,  48,   65,  -73,  -52, -39, -29, -22, -15, -8,  -2,  4,   11,  17,  24,  31,  40,  51,  71,  -77,  -57,
    -43, -34, -26,  -19, -12,  -6,  1,   8,   15,  23,  32,  41,  55,  75,  -87, -57, -43, -33, -25, -17, -9,   -2,
    4,   11,  18,   26,  34,   45,  61,  83,  -97, -65, -49, -37, -27, -19, -11, -3,  5,   12,  21,  29,  37,   48,
    65,  93,  -109, -71, -53,  -39, -30, -21, -13, -5,  3,   12,  20,  29,  38,  53,  73,  116, -61, -47, -37,  -30,
    -24, -18, -12,  -7,  -2,   4,   9,   15,  21,  27,  35,  47,  -65, -51, -40, -32, -25, -18, -12, -6,  -1,   5,
    11,  17,  23,   29,  38,   53,  -71, -55, -43, -34, -27, -20, -14, -8,  -2,  4,   10,  16,  22,  30,  42,   57,
    -80, -60, -47,  -37, -29,  -22, -15, -9,  -3,  3,   9,   16,  24,  33,  45,  62,  -85, -63, -50, -41, -32,  -25,
    -18, -11, -4,   4,   11,   18,  27,  36,  49,  69,  -91, -68, -51, -39, -30, -22, -14, -7,  0,   7,   14,   21,
    29,  38,  52,   79,  -103, -73, -55, -44, -35, -27, -20, -12, -5,  2,   10,  18,  27,  41,  58,  87,  -126, -83,
    -61, -46, -35,  -26, -18,  -9,  -2,  6,   15,  23,  32,  45,  65,  99,
};
inline constexpr int8_t kShift4[16] = {6, 6, 7, 7, 8, 8, 9, 10, 6, 6, 7, 7, 8, 8, 9, 10};

/// table of `bits` (2, 3, 4): int8 [16][2^bits]; shift: int8 [16]; nullptr for other bits.
constexpr const int8_t* tcq16_table(int bits) {
  return bits == 2 ? kTable2 : bits == 3 ? kTable3 : bits == 4 ? kTable4 : nullptr;
}
constexpr const int8_t* tcq16_shift(int bits) {
  return bits == 2 ? kShift2 : bits == 3 ? kShift3 : bits == 4 ? kShift4 : nullptr;
}
/// What the tables' values are multiplied by to be in units of the row's RMS; 0 for other bits.
constexpr double tcq16_unit(int bits) {
  return bits == 2 ? 0.023506 : bits == 3 ? 0.027484 : bits == 4 ? 0.031090 : 0.0;
}

/// Packs one tile. codes: [16 rows][groups][16] in slot order; index: [16][groups]; blocks: groups * block_bytes(bits).
/// bits: 2, 3, 4.
void pack_tile(int bits, const uint8_t* codes, const uint8_t* index, int64_t groups, uint8_t* blocks);

/// Packs one block. codes: [16 slots][16 rows]; index: [16 rows]; bits: 2, 3, 4, not checked.
void pack_block(int bits, const uint8_t (*codes)[kTileRows], const uint8_t* index, uint8_t* block);

/// The integers of one tile, TCQ16 (table + c0 * shift) or int8. q: [16][16 * groups]. bits: 2, 3, 4, 8.
void unpack_tile(int bits, const uint8_t* blocks, int64_t groups, int8_t* q);

/// The same for rows [begin, end) of the tile; q: [end - begin][16 * groups].
void unpack_rows(int bits, const uint8_t* blocks, int64_t groups, int begin, int end, int8_t* q);

/// Packs one tile of int8 rows, q: [16][16 * groups].
void pack_int8_tile(const int8_t* q, int64_t groups, uint8_t* blocks);

}  // namespace turboquant
