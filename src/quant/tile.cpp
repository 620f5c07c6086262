#include "quant/tile.h"

#include <string>

#include "turboquant/error.h"

namespace turboquant {
namespace {

uint64_t load_word(const uint8_t* bytes) {
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) word |= uint64_t{bytes[i]} << (8 * i);
  return word;
}

void store_word(uint64_t word, uint8_t* bytes) {
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(word >> (8 * i));
}

void check_bits(int bits) {
  if (block_bytes(bits) == 0) throw Error("tiles of " + std::to_string(bits) + " bits do not exist: use 2, 3, 4 or 8");
}

// Byte of a block's 64-byte vectors that belongs to a weight, and its vector.
constexpr int lane_byte(int row, int column) { return 4 * row + column % 4; }
constexpr int vector_of(int column) { return column / 4; }

constexpr uint64_t kEveryByte = 0x0101010101010101;

// The four words of one bit of every code: bit 4 r + p of word j = bit `bit` of column 4 j + p of row r. Eight rows at
// a time, a byte of a word each.
void pack_planes(const uint8_t (*codes)[kTileRows], int bit, uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    uint64_t word = 0;
    for (int half = 0; half < 2; ++half) {
      uint64_t nibbles = 0;
      for (int p = 0; p < 4; ++p)
        nibbles |= (load_word(codes[weight_slot(4 * j + p)] + 8 * half) >> bit & kEveryByte) << p;
      nibbles = (nibbles | nibbles >> 4) & 0x00ff00ff00ff00ff;
      nibbles = (nibbles | nibbles >> 8) & 0x0000ffff0000ffff;
      nibbles = (nibbles | nibbles >> 16) & 0x00000000ffffffff;
      word |= nibbles << (32 * half);
    }
    store_word(word, out + 8 * j);
  }
}

// The low two plain bits, those of vector j in bits 2 j and 2 j + 1 of byte 4 r + p.
void pack_low_bits(const uint8_t (*codes)[kTileRows], uint8_t* out) {
  for (int half = 0; half < 2; ++half)
    for (int p = 0; p < 4; ++p) {
      uint64_t rows = 0;
      for (int j = 0; j < 4; ++j)
        rows |= (load_word(codes[weight_slot(4 * j + p)] + 8 * half) >> 1 & 3 * kEveryByte) << (2 * j);
      for (int r = 0; r < 8; ++r) out[lane_byte(8 * half + r, p)] = static_cast<uint8_t>(rows >> (8 * r));
    }
}

int plane_bit(const uint8_t* planes, int row, int column) {
  return static_cast<int>(load_word(planes + 8 * vector_of(column)) >> lane_byte(row, column)) & 1;
}

void unpack_group(int bits, const uint8_t* block, int row, int8_t* q) {
  const int index = (block[index_offset(bits) + row / 2] >> (4 * (row % 2))) & 15;
  const int8_t* table = tcq16_table(bits) + (index << bits);
  const int shift = tcq16_shift(bits)[index];
  const uint8_t* trellis = block + trellis_offset(bits);
  for (int i = 0; i < kGroup; ++i) {
    const int before = slot_weight((weight_slot(i) + kGroup - 1) % kGroup);
    int plain = bits != 2 ? (block[lane_byte(row, i)] >> (2 * vector_of(i))) & 3 : 0;
    if (bits != 3) plain |= plane_bit(block + top_offset(bits), row, i) << (bits - 2);
    const int k = plain << 1 | plane_bit(trellis, row, i);
    q[i] = static_cast<int8_t>(table[k] + plane_bit(trellis, row, before) * shift);
  }
}

}  // namespace

void pack_block(int bits, const uint8_t (*codes)[kTileRows], const uint8_t* index, uint8_t* block) {
  if (bits != 2) pack_low_bits(codes, block);
  if (bits != 3) pack_planes(codes, bits - 1, block + top_offset(bits));
  pack_planes(codes, 0, block + trellis_offset(bits));
  for (int i = 0; i < kTileRows / 2; ++i)
    block[index_offset(bits) + i] = static_cast<uint8_t>((index[2 * i] & 15) | (index[2 * i + 1] & 15) << 4);
}

void pack_tile(int bits, const uint8_t* codes, const uint8_t* index, int64_t groups, uint8_t* blocks) {
  check_bits(bits);
  if (bits == 8) throw Error("pack_tile packs codes of 2, 3 or 4 bits: use pack_int8_tile for 8");
  for (int64_t g = 0; g < groups; ++g) {
    uint8_t by_slot[kGroup][kTileRows], index_of_row[kTileRows];
    for (int r = 0; r < kTileRows; ++r) {
      for (int t = 0; t < kGroup; ++t) by_slot[t][r] = codes[(r * groups + g) * kGroup + t];
      index_of_row[r] = index[r * groups + g];
    }
    pack_block(bits, by_slot, index_of_row, blocks + g * block_bytes(bits));
  }
}

void unpack_rows(int bits, const uint8_t* blocks, int64_t groups, int begin, int end, int8_t* q) {
  check_bits(bits);
  const int64_t stride = groups * kGroup;
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(bits), q += kGroup)
    for (int r = begin; r < end; ++r) {
      int8_t* out = q + (r - begin) * stride;
      if (bits != 8) {
        unpack_group(bits, blocks, r, out);
        continue;
      }
      for (int i = 0; i < kGroup; ++i) out[i] = static_cast<int8_t>(blocks[64 * vector_of(i) + lane_byte(r, i)]);
    }
}

void unpack_tile(int bits, const uint8_t* blocks, int64_t groups, int8_t* q) {
  unpack_rows(bits, blocks, groups, 0, kTileRows, q);
}

void pack_int8_tile(const int8_t* q, int64_t groups, uint8_t* blocks) {
  const int64_t stride = groups * kGroup;
  for (int64_t g = 0; g < groups; ++g, blocks += block_bytes(8), q += kGroup)
    for (int r = 0; r < kTileRows; ++r)
      for (int i = 0; i < kGroup; ++i)
        blocks[64 * vector_of(i) + lane_byte(r, i)] = static_cast<uint8_t>(q[r * stride + i]);
}

}  // namespace turboquant
