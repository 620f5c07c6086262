// The format of a compressed KV cache: rotated keys and values of one head in blocks of 64 tokens, b + 16 / head_dim
// bits a value.
//
// A vector (head_dim values of one token, in the rotated basis) has one fp16 scale and, of 2, 3 or 4 bits, a 4-state
// tail-biting trellis code: slot t holds code = (plain << 1) | u, and its value is
//   scale * kv_unit(bits) * LEVELS[bits][(plain << 2) | ((u[t] ^ u[t-2]) << 1) | u[t-1]],   slots t modulo head_dim,
// where LEVELS are int8 and ascend within each of their four sets. 8 bits are plain int8. (Marcellin, Fischer 1990,
// "Trellis coded quantization of memoryless and Gauss-Markov sources"; tail-biting as in QTIP, Tseng et al. 2024.)
//
// A side (keys or values) of a block lies in `head_dim` vectors of 64 codes, arranged as integer dot products with
// 32-bit lanes want them: of keys, a lane is a token and its bytes are four coordinates; of values, a lane is a
// coordinate and its bytes are four tokens. Slots are numbered so that u[t-1] of a whole vector is u of the vector
// before. The bytes:
//   bits 3, 4: head_dim / 4 times 64 bytes, the low two plain bits of vector v in bits 2 (v mod 4), + 1 of its byte
//   bits 2, 4: head_dim words of 64 bits, the top plain bit of each byte of vector v
//   2, 3, 4:   head_dim words of 64 bits, u
//   8:         head_dim times 64 bytes
//   always:    64 fp16 scales
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/cpu.h"
#include "quant/weight.h"

namespace turboquant {

constexpr int64_t kKvBlockTokens = 64;
constexpr int64_t kKvMaxHeadDim = 256;

enum class KvSide { keys, values };

/// Bits of cached keys and values: 2, 3, 4 or 8 each, or 16 both: fp16, not compressed.
struct KvBits {
  int keys = 16, values = 16;

  bool compressed() const { return keys < 16; }
  bool operator==(const KvBits&) const = default;
};

/// "fp16", "3", "k4v3" (keys of 4 bits, values of 3).
std::string to_string(const KvBits& bits);
/// From the same, or "16". UsageError for anything else.
KvBits parse_kv_bits(const std::string& text);

/// Whether heads of that size can be compressed: a multiple of 16, at most kKvMaxHeadDim.
constexpr bool kv_compressible(int64_t head_dim) {
  return head_dim >= 16 && head_dim % 16 == 0 && head_dim <= kKvMaxHeadDim;
}
/// Error if they cannot.
void check_kv_heads(int64_t head_dim);

/// How a model's caches are compressed: the same rotations for all heads of all layers.
struct KvCode {
  KvBits bits;
  Rotation keys, values;  // of a head
};
KvCode make_kv_code(KvBits bits, int64_t head_dim);

/// Places of one side's planes in a block, in bytes.
constexpr int64_t kv_top_offset(int bits, int64_t dim) { return bits >= 3 ? 16 * dim : 0; }
constexpr int64_t kv_trellis_offset(int bits, int64_t dim) { return 8 * (bits - 1) * dim; }
constexpr int64_t kv_scales_offset(int bits, int64_t dim) { return 8 * bits * dim; }
/// Bytes of one side of a block of one head.
constexpr int64_t kv_side_bytes(int bits, int64_t dim) { return kv_scales_offset(bits, dim) + 2 * kKvBlockTokens; }
/// Bytes of a block of one head: its keys, then its values.
constexpr int64_t kv_head_bytes(KvBits bits, int64_t dim) {
  return kv_side_bytes(bits.keys, dim) + kv_side_bytes(bits.values, dim);
}

/// Where a value lies: vector, and byte in it.
struct KvPlace {
  int64_t vector, byte;
};
constexpr KvPlace kv_place(KvSide side, int64_t dim, int64_t token, int64_t coordinate) {
  if (side == KvSide::keys) return {token / 16 * (dim / 4) + coordinate / 4, 4 * (token % 16) + coordinate % 4};
  return {coordinate / 16 * 16 + token / 4, 4 * (coordinate % 16) + token % 4};
}
/// The slot of the trellis that a coordinate has.
constexpr int64_t kv_slot(KvSide side, int64_t dim, int64_t coordinate) {
  const int64_t lanes = side == KvSide::keys ? 4 : 16;
  return coordinate % lanes * (dim / lanes) + coordinate / lanes;
}

/// LEVELS, int8 [2^(bits + 1)], 64-byte aligned, |level| <= 127; bits 2, 3, 4.
const int8_t* kv_levels(int bits);
/// What a level counts in units of the stored scale.
float kv_unit(int bits);

/// Encodes one side of a block: x F32 [64][dim], rotated, finite; dim a multiple of 16 up to kKvMaxHeadDim. Writes
/// kv_side_bytes. Error for other sizes.
void kv_encode(KvSide side, int bits, const float* x, int64_t dim, uint8_t* out);
/// The same at a given processor level, for tests.
void kv_encode_at(CpuLevel level, KvSide side, int bits, const float* x, int64_t dim, uint8_t* out);

/// The integers of one side of a block, int8 [64][dim]: a value is scale * kv_unit * integer.
void kv_unpack(KvSide side, int bits, const uint8_t* in, int64_t dim, int8_t* out);
/// The values, F32 [64][dim].
void kv_decode(KvSide side, int bits, const uint8_t* in, int64_t dim, float* out);

/// The reference of the search: the codes [dim], in slot order, of x [dim] in units of the scale; returns the squared
/// error, the least there is.
double kv_search(int bits, const double* x, int64_t dim, uint8_t* codes);

}  // namespace turboquant
