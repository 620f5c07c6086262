#include "io/gguf_dequant.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "core/half.h"

// The block layouts are those of ggml (https://github.com/ggml-org/ggml, ggml-common.h). "K" blocks hold 256 values in
// groups of 16 or 32, whose small integer scales are multiplied by one or two half-precision scales of the block.
namespace turboquant {
namespace {

constexpr int kK = 256;

struct TypeEntry {
  GgufType type;
  std::string_view name;
  GgufBlock block;
};

constexpr std::array<TypeEntry, 15> kTypes = {{
    {GgufType::f32, "F32", {1, 4}},
    {GgufType::f16, "F16", {1, 2}},
    {GgufType::q4_0, "Q4_0", {32, 18}},
    {GgufType::q4_1, "Q4_1", {32, 20}},
    {GgufType::q5_0, "Q5_0", {32, 22}},
    {GgufType::q5_1, "Q5_1", {32, 24}},
    {GgufType::q8_0, "Q8_0", {32, 34}},
    {GgufType::q2_k, "Q2_K", {kK, 84}},
    {GgufType::q3_k, "Q3_K", {kK, 110}},
    {GgufType::q4_k, "Q4_K", {kK, 144}},
    {GgufType::q5_k, "Q5_K", {kK, 176}},
    {GgufType::q6_k, "Q6_K", {kK, 210}},
    {GgufType::iq4_nl, "IQ4_NL", {32, 18}},
    {GgufType::bf16, "BF16", {1, 2}},
    {GgufType::mxfp4, "MXFP4", {32, 17}},
}};

// Types that exist but are not read; an error should call them by their names.
constexpr std::array<std::pair<uint32_t, std::string_view>, 21> kOtherTypes = {{
    {4, "Q4_2"},   {5, "Q4_3"},   {9, "Q8_1"},   {15, "Q8_K"},   {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
    {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"}, {24, "I8"},      {25, "I16"},    {26, "I32"},
    {27, "I64"},   {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},  {35, "TQ2_0"},   {40, "NVFP4"},  {41, "Q1_0"},
}};

const TypeEntry& entry(GgufType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [type](const TypeEntry& e) { return e.type == type; });
}

uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
float load_half(const uint8_t* p) { return half_to_float(load_u16(p)); }
uint32_t load_u32(const uint8_t* p) { return load_u16(p) | static_cast<uint32_t>(load_u16(p + 2)) << 16; }

// Blocks of 32 values keep value i in the low and value i + 16 in the high half of byte i.

void q4_0(const uint8_t* b, float* out) {
  const float d = load_half(b);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((b[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((b[2 + i] >> 4) - 8);
  }
}

void q4_1(const uint8_t* b, float* out) {
  const float d = load_half(b), m = load_half(b + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(b[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(b[4 + i] >> 4) + m;
  }
}

// The fifth bit of value i is bit i of a word.
void q5_0(const uint8_t* b, float* out) {
  const float d = load_half(b);
  const uint32_t high = load_u32(b + 2);
  for (int i = 0; i < 16; ++i) {
    const auto low = static_cast<int>((b[6 + i] & 15u) | (high >> i & 1) << 4);
    const auto up = static_cast<int>(b[6 + i] >> 4 | (high >> (i + 16) & 1) << 4);
    out[i] = d * static_cast<float>(low - 16);
    out[i + 16] = d * static_cast<float>(up - 16);
  }
}

void q5_1(const uint8_t* b, float* out) {
  const float d = load_half(b), m = load_half(b + 2);
  const uint32_t high = load_u32(b + 4);
  for (int i = 0; i < 16; ++i) {
    const auto low = static_cast<int>((b[8 + i] & 15u) | (high >> i & 1) << 4);
    const auto up = static_cast<int>(b[8 + i] >> 4 | (high >> (i + 16) & 1) << 4);
    out[i] = d * static_cast<float>(low) + m;
    out[i + 16] = d * static_cast<float>(up) + m;
  }
}

void q8_0(const uint8_t* b, float* out) {
  const float d = load_half(b);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(b[2 + i])) * d;
}

constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

void iq4_nl(const uint8_t* b, float* out) {
  const float d = load_half(b);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(kIq4Values[b[2 + i] & 15]);
    out[i + 16] = d * static_cast<float>(kIq4Values[b[2 + i] >> 4]);
  }
}

// Twice the FP4 (e2m1) values of the OCP Microscaling specification; index 8, its minus zero, is read as plus zero.
constexpr std::array<int8_t, 16> kFp4Doubled = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

void mxfp4(const uint8_t* b, float* out) {
  // Half of 2^(e - 127), to undo the doubling; e = 0 and 1 give subnormals.
  const uint32_t e = b[0];
  const auto d = std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(kFp4Doubled[b[1 + i] & 15]);
    out[i + 16] = d * static_cast<float>(kFp4Doubled[b[1 + i] >> 4]);
  }
}

// 16 bytes of scales (low half) and minima (high half), 64 bytes of 2-bit values, d, dmin. Each 32 bytes of values hold
// four groups of 32, two bits apart.
void q2_k(const uint8_t* b, float* out) {
  const uint8_t* scales = b;
  const float d = load_half(b + 80), dmin = load_half(b + 82);
  for (int group = 0; group < 16; ++group) {
    const uint8_t* q = b + 16 + group / 8 * 32 + group % 2 * 16;
    const int shift = group % 8 / 2 * 2;
    const float scale = d * static_cast<float>(scales[group] & 15);
    const float minimum = dmin * static_cast<float>(scales[group] >> 4);
    for (int i = 0; i < 16; ++i) out[group * 16 + i] = scale * static_cast<float>(q[i] >> shift & 3) - minimum;
  }
}

// 32 bytes of high bits, 64 of low pairs, 12 of 6-bit scales (four low bits in bytes 0 to 7, two high bits in 8 to 11),
// d.
void q3_k(const uint8_t* b, float* out) {
  const uint8_t* scales = b + 96;
  const float d = load_half(b + 108);
  for (int group = 0; group < 16; ++group) {
    const int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
    const int scale_bits = low | (scales[8 + group % 4] >> (group / 4 * 2) & 3) << 4;
    const float scale = d * static_cast<float>(scale_bits - 32);
    const uint8_t* q = b + 32 + group / 8 * 32 + group % 2 * 16;
    const uint8_t* high = b + group % 2 * 16;
    const int shift = group % 8 / 2 * 2, bit = group / 2;
    for (int i = 0; i < 16; ++i) {
      const int value = (q[i] >> shift & 3) - ((high[i] >> bit & 1) == 0 ? 4 : 0);
      out[group * 16 + i] = scale * static_cast<float>(value);
    }
  }
}

// The eight 6-bit scales and minima of Q4_K and Q5_K in 12 bytes.
struct ScaleMin {
  int scale, minimum;
};
ScaleMin k_scale(const uint8_t* s, int group) {
  if (group < 4) return {s[group] & 63, s[group + 4] & 63};
  return {(s[group + 4] & 15) | (s[group - 4] >> 6) << 4, s[group + 4] >> 4 | (s[group] >> 6) << 4};
}

void q4_k(const uint8_t* b, float* out) {
  const float d = load_half(b), dmin = load_half(b + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleMin s = k_scale(b + 4, group);
    const float scale = d * static_cast<float>(s.scale), minimum = dmin * static_cast<float>(s.minimum);
    const uint8_t* q = b + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) out[group * 32 + i] = scale * static_cast<float>(q[i] >> shift & 15) - minimum;
  }
}

void q5_k(const uint8_t* b, float* out) {
  const float d = load_half(b), dmin = load_half(b + 2);
  const uint8_t* high = b + 16;
  for (int group = 0; group < 8; ++group) {
    const ScaleMin s = k_scale(b + 4, group);
    const float scale = d * static_cast<float>(s.scale), minimum = dmin * static_cast<float>(s.minimum);
    const uint8_t* q = b + 48 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int value = (q[i] >> shift & 15) | (high[i] >> group & 1) << 4;
      out[group * 32 + i] = scale * static_cast<float>(value) - minimum;
    }
  }
}

// 128 bytes of four low bits, 64 of two high bits, 16 scales of 8 bits, d; two halves of 128 values, each of four
// groups of 32.
void q6_k(const uint8_t* b, float* out) {
  const float d = load_half(b + 208);
  for (int group = 0; group < 16; ++group) {
    const int half = group / 8, quarter = group % 8 / 2, column = group % 2 * 16;
    const uint8_t* low = b + half * 64 + quarter % 2 * 32 + column;
    const uint8_t* high = b + 128 + half * 32 + column;
    const int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
    const float scale = d * static_cast<float>(static_cast<int8_t>(b[192 + group]));
    for (int i = 0; i < 16; ++i) {
      const int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
      out[group * 16 + i] = scale * static_cast<float>(value - 32);
    }
  }
}

template <void (*Decode)(const uint8_t*, float*)>
void each_block(GgufBlock block, const uint8_t* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += block.elements, in += block.bytes) Decode(in, out + i);
}

}  // namespace

std::optional<GgufType> gguf_type(uint32_t number) {
  for (const TypeEntry& e : kTypes)
    if (static_cast<uint32_t>(e.type) == number) return e.type;
  return std::nullopt;
}

std::string gguf_type_name(uint32_t number) {
  if (const auto type = gguf_type(number)) return std::string(name(*type));
  for (const auto& [other, text] : kOtherTypes)
    if (other == number) return std::string(text);
  return "type " + std::to_string(number);
}

std::string_view name(GgufType type) { return entry(type).name; }
GgufBlock block_of(GgufType type) { return entry(type).block; }

DType dtype_of(GgufType type) {
  if (type == GgufType::f32) return DType::f32;
  return type == GgufType::bf16 ? DType::bf16 : DType::f16;
}

void dequantize(GgufType type, const std::byte* blocks, int64_t n, float* out) {
  const auto* in = reinterpret_cast<const uint8_t*>(blocks);
  const GgufBlock block = block_of(type);
  switch (type) {
    case GgufType::f32:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
      return;
    case GgufType::f16:
      for (int64_t i = 0; i < n; ++i) out[i] = load_half(in + 2 * i);
      return;
    case GgufType::bf16:
      for (int64_t i = 0; i < n; ++i) out[i] = bfloat_to_float(load_u16(in + 2 * i));
      return;
    case GgufType::q4_0:
      return each_block<q4_0>(block, in, n, out);
    case GgufType::q4_1:
      return each_block<q4_1>(block, in, n, out);
    case GgufType::q5_0:
      return each_block<q5_0>(block, in, n, out);
    case GgufType::q5_1:
      return each_block<q5_1>(block, in, n, out);
    case GgufType::q8_0:
      return each_block<q8_0>(block, in, n, out);
    case GgufType::q2_k:
      return each_block<q2_k>(block, in, n, out);
    case GgufType::q3_k:
      return each_block<q3_k>(block, in, n, out);
    case GgufType::q4_k:
      return each_block<q4_k>(block, in, n, out);
    case GgufType::q5_k:
      return each_block<q5_k>(block, in, n, out);
    case GgufType::q6_k:
      return each_block<q6_k>(block, in, n, out);
    case GgufType::iq4_nl:
      return each_block<iq4_nl>(block, in, n, out);
    case GgufType::mxfp4:
      return each_block<mxfp4>(block, in, n, out);
  }
}

void dequantize_to_half(GgufType type, const std::byte* blocks, int64_t n, uint16_t* out) {
  constexpr int64_t kChunk = 8 * kK;  // floats that stay in the first-level cache; a multiple of every block
  const GgufBlock block = block_of(type);
  std::array<float, kChunk> values;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = std::min(kChunk, n - begin);
    dequantize(type, blocks + static_cast<size_t>(begin / block.elements) * block.bytes, count, values.data());
    for (int64_t i = 0; i < count; ++i) out[begin + i] = float_to_half(values[static_cast<size_t>(i)]);
  }
}

}  // namespace turboquant
