// Vectors of floats for the kernels of this folder, one struct a processor level with the same members, so that a
// kernel is written once as a template over it. Everything is in an unnamed namespace: each file gets its own copies,
// compiled for its own instructions, and none can leak into a file that runs on a lesser processor. For the same reason
// the files of one level include no more of the standard library than <cstdint> and <cstring>.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined values in its own intrinsics for mistakes (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace turboquant {
namespace {

/// 4 lanes that any compiler can map to what the processor has (SSE2, NEON). No fused multiply-add.
struct PortableSimd {
  static constexpr int kWidth = 4;
  typedef float Float __attribute__((vector_size(16)));
  typedef int32_t Int __attribute__((vector_size(16)));
  using Mask = Int;

  static Float load(const float* p) {
    Float v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Float v) { std::memcpy(p, &v, sizeof v); }
  static Float set(float x) { return Float{x, x, x, x}; }
  static Int set_int(int32_t x) { return Int{x, x, x, x}; }
  static Float add(Float a, Float b) { return a + b; }
  static Float sub(Float a, Float b) { return a - b; }
  static Float mul(Float a, Float b) { return a * b; }
  static Float multiply_add(Float a, Float b, Float c) { return a * b + c; }
  static Float max(Float a, Float b) { return a > b ? a : b; }
  static Mask greater(Float a, Float b) { return reinterpret_cast<Mask>(a > b); }
  /// mask ? a : b
  static Float select(Mask mask, Float a, Float b) {
    return reinterpret_cast<Float>(select_int(mask, reinterpret_cast<Int>(a), reinterpret_cast<Int>(b)));
  }
  static Int select_int(Mask mask, Int a, Int b) { return (mask & a) | (~mask & b); }
  static Mask select_mask(Mask mask, Mask a, Mask b) { return select_int(mask, a, b); }
  static Mask exclusive_or(Mask a, Mask b) { return a ^ b; }
  /// a | (mask ? b : 0)
  static Int or_masked(Int a, Mask mask, Int b) { return a | (mask & b); }
  /// table [16] at each lane's index 0..15
  static Float lookup16(const float* table, Int index) {
    return Float{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
  }
  /// The low byte of each lane.
  static void store_bytes(uint8_t* p, Int v) {
    for (int i = 0; i < kWidth; ++i) p[i] = static_cast<uint8_t>(v[i]);
  }

  /// At the end of every function that other files call: GCC leaves the upper halves of the registers in use after
  /// functions that take vectors, and code without AVX that runs next is then several times slower.
  static void finish() {}

  /// One stage of the butterfly inside the vector, lanes h apart: (a, b) -> (a + b, a - b).
  template <int h>
  static Float butterfly(Float v) {
    if constexpr (h == 1) return Float{v[1], v[0], v[3], v[2]} + Float{v[0], -v[1], v[2], -v[3]};
    if constexpr (h == 2) return Float{v[2], v[3], v[0], v[1]} + Float{v[0], v[1], -v[2], -v[3]};
  }
};

#if defined(__aarch64__)
struct NeonSimd {
  static constexpr int kWidth = 4;
  using Float = float32x4_t;
  using Int = int32x4_t;
  using Mask = uint32x4_t;

  static Float load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, Float v) { vst1q_f32(p, v); }
  static Float set(float x) { return vdupq_n_f32(x); }
  static Int set_int(int32_t x) { return vdupq_n_s32(x); }
  static Float add(Float a, Float b) { return vaddq_f32(a, b); }
  static Float sub(Float a, Float b) { return vsubq_f32(a, b); }
  static Float mul(Float a, Float b) { return vmulq_f32(a, b); }
  static Float multiply_add(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static Float max(Float a, Float b) { return vmaxq_f32(a, b); }
  static Mask greater(Float a, Float b) { return vcgtq_f32(a, b); }
  static Float select(Mask mask, Float a, Float b) { return vbslq_f32(mask, a, b); }
  static Int select_int(Mask mask, Int a, Int b) { return vbslq_s32(mask, a, b); }
  static Mask select_mask(Mask mask, Mask a, Mask b) { return vbslq_u32(mask, a, b); }
  static Mask exclusive_or(Mask a, Mask b) { return veorq_u32(a, b); }
  static Int or_masked(Int a, Mask mask, Int b) { return vorrq_s32(a, vandq_s32(vreinterpretq_s32_u32(mask), b)); }
  static Float lookup16(const float* table, Int index) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(table);
    const uint8x16x4_t all = {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
    // The bytes of a lane's float: 4 index, 4 index + 1, ...
    const Int places = vmlaq_n_s32(vdupq_n_s32(0x03020100), index, 0x04040404);
    return vreinterpretq_f32_u8(vqtbl4q_u8(all, vreinterpretq_u8_s32(places)));
  }
  static void store_bytes(uint8_t* p, Int v) {
    const int16x4_t words = vmovn_s32(v);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
    const int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    std::memcpy(p, &four, sizeof four);
  }
  static void finish() {}

  template <int h>
  static Float butterfly(Float v) {
    static constexpr uint32_t kNegative[4] = {0, h == 1 ? kSign : 0, h == 2 ? kSign : 0, kSign};
    const Float other = h == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
    return vaddq_f32(other, vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), vld1q_u32(kNegative))));
  }

 private:
  static constexpr uint32_t kSign = 0x80000000;
};
#endif

#if defined(__AVX2__) && defined(__FMA__)
struct Avx2Simd {
  static constexpr int kWidth = 8;
  using Float = __m256;
  using Int = __m256i;
  using Mask = __m256;

  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
  static Float set(float x) { return _mm256_set1_ps(x); }
  static Int set_int(int32_t x) { return _mm256_set1_epi32(x); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Mask greater(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
  static Float select(Mask mask, Float a, Float b) { return _mm256_blendv_ps(b, a, mask); }
  static Int select_int(Mask mask, Int a, Int b) {
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(b), _mm256_castsi256_ps(a), mask));
  }
  static Mask select_mask(Mask mask, Mask a, Mask b) { return _mm256_blendv_ps(b, a, mask); }
  static Mask exclusive_or(Mask a, Mask b) { return _mm256_xor_ps(a, b); }
  static Int or_masked(Int a, Mask mask, Int b) {
    return _mm256_or_si256(a, _mm256_and_si256(_mm256_castps_si256(mask), b));
  }
  static Float lookup16(const float* table, Int index) { return _mm256_i32gather_ps(table, index, 4); }
  static void store_bytes(uint8_t* p, Int v) {
    const __m256i low = _mm256_shuffle_epi8(v, _mm256_set1_epi32(0x0c080400));
    const uint32_t halves[2] = {static_cast<uint32_t>(_mm256_extract_epi32(low, 0)),
                                static_cast<uint32_t>(_mm256_extract_epi32(low, 4))};
    std::memcpy(p, halves, sizeof halves);
  }
  static void finish() { _mm256_zeroupper(); }

  template <int h>
  static Float butterfly(Float v) {
    const Float sign = _mm256_castsi256_ps(h == 1   ? _mm256_setr_epi32(0, kSign, 0, kSign, 0, kSign, 0, kSign)
                                           : h == 2 ? _mm256_setr_epi32(0, 0, kSign, kSign, 0, 0, kSign, kSign)
                                                    : _mm256_setr_epi32(0, 0, 0, 0, kSign, kSign, kSign, kSign));
    const Float other = h == 1   ? _mm256_permute_ps(v, 0xB1)
                        : h == 2 ? _mm256_permute_ps(v, 0x4E)
                                 : _mm256_permute2f128_ps(v, v, 0x01);
    return _mm256_add_ps(other, _mm256_xor_ps(v, sign));
  }

 private:
  static constexpr int32_t kSign = INT32_MIN;
};
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
struct Avx512Simd {
  static constexpr int kWidth = 16;
  using Float = __m512;
  using Int = __m512i;
  using Mask = __mmask16;

  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
  static Float set(float x) { return _mm512_set1_ps(x); }
  static Int set_int(int32_t x) { return _mm512_set1_epi32(x); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Mask greater(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static Float select(Mask mask, Float a, Float b) { return _mm512_mask_blend_ps(mask, b, a); }
  static Int select_int(Mask mask, Int a, Int b) { return _mm512_mask_blend_epi32(mask, b, a); }
  static Mask select_mask(Mask mask, Mask a, Mask b) { return static_cast<Mask>((mask & a) | (~mask & b)); }
  static Mask exclusive_or(Mask a, Mask b) { return static_cast<Mask>(a ^ b); }
  static Int or_masked(Int a, Mask mask, Int b) { return _mm512_mask_or_epi32(a, mask, a, b); }
  static Float lookup16(const float* table, Int index) { return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table)); }
  static void store_bytes(uint8_t* p, Int v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
  }
  static void finish() { _mm256_zeroupper(); }

  template <int h>
  static Float butterfly(Float v) {
    constexpr Mask kUpper = h == 1 ? 0xAAAA : h == 2 ? 0xCCCC : h == 4 ? 0xF0F0 : 0xFF00;
    const Float other = h == 1   ? _mm512_permute_ps(v, 0xB1)
                        : h == 2 ? _mm512_permute_ps(v, 0x4E)
                        : h == 4 ? _mm512_shuffle_f32x4(v, v, 0xB1)
                                 : _mm512_shuffle_f32x4(v, v, 0x4E);
    return _mm512_mask_sub_ps(_mm512_add_ps(other, v), kUpper, other, v);
  }
};
#endif

}  // namespace
}  // namespace turboquant
