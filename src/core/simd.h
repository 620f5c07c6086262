// Vectors of floats for code that is written once and compiled for each instruction set. Only for *.avx2.cpp,
// *.avx512.cpp and *.neon.cpp, which are compiled for these instructions: everything here has internal linkage or is
// always inlined, so that no function compiled for a newer processor can stand in for a portable one of the same name.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#include <cstdint>

namespace turboquant {
namespace {

#if defined(__AVX512F__)

struct Floats {
  static constexpr int kWidth = 16;
  static constexpr int kRegisters = 32;
  __m512 v;

  static Floats zero() { return {_mm512_setzero_ps()}; }
  static Floats all(float x) { return {_mm512_set1_ps(x)}; }
  static Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Floats load_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Floats load_bfloat(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
  /// Integers, `minus` subtracted from each.
  static Floats load_difference(const int32_t* p, int32_t minus) {
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(minus)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_half(uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  /// Rounded to nearest even and saturated to int8.
  void store_int8(int8_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  /// 2^this, for whole numbers in [-126, 127].
  Floats exp2_whole() const {
    const __m512i n = _mm512_cvtps_epi32(v);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23))};
  }
  Floats round() const { return {_mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  Floats abs() const { return {_mm512_abs_ps(v)}; }
  float sum() const { return _mm512_reduce_add_ps(v); }
  float largest() const { return _mm512_reduce_max_ps(v); }
  /// The first `count` lanes of this, the others from `rest`.
  Floats keep_first(int count, Floats rest) const {
    const auto mask = static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
    return {_mm512_mask_blend_ps(mask, rest.v, v)};
  }
};
inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
/// a * b + c, rounded once.
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

#elif defined(__AVX2__)

struct Floats {
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;
  __m256 v;

  static Floats zero() { return {_mm256_setzero_ps()}; }
  static Floats all(float x) { return {_mm256_set1_ps(x)}; }
  static Floats load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Floats load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Floats load_bfloat(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  static Floats load_difference(const int32_t* p, int32_t minus) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(x, _mm256_set1_epi32(minus)))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store_half(uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  void store_int8(int8_t* p) const {
    const __m256i wide = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
  }
  Floats exp2_whole() const {
    const __m256i n = _mm256_cvtps_epi32(v);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23))};
  }
  Floats round() const { return {_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  Floats abs() const { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), v)}; }
  float sum() const {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  float largest() const {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }
  Floats keep_first(int count, Floats rest) const {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
    return {_mm256_blendv_ps(rest.v, v, _mm256_castsi256_ps(mask))};
  }
};
inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

#elif defined(__aarch64__)

struct Floats {
  static constexpr int kWidth = 4;
  static constexpr int kRegisters = 32;
  float32x4_t v;

  static Floats zero() { return {vdupq_n_f32(0)}; }
  static Floats all(float x) { return {vdupq_n_f32(x)}; }
  static Floats load(const float* p) { return {vld1q_f32(p)}; }
  static Floats load_half(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
  static Floats load_bfloat(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
  static Floats load_difference(const int32_t* p, int32_t minus) {
    return {vcvtq_f32_s32(vsubq_s32(vld1q_s32(p), vdupq_n_s32(minus)))};
  }
  void store(float* p) const { vst1q_f32(p, v); }
  void store_half(uint16_t* p) const { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
  void store_int8(int8_t* p) const {
    const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(v));
    const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
    const int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    __builtin_memcpy(p, &four, sizeof four);
  }
  Floats exp2_whole() const {
    return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(v), vdupq_n_s32(127)), 23))};
  }
  Floats round() const { return {vrndnq_f32(v)}; }
  Floats abs() const { return {vabsq_f32(v)}; }
  float sum() const { return vaddvq_f32(v); }
  float largest() const { return vmaxvq_f32(v); }
  Floats keep_first(int count, Floats rest) const {
    static constexpr int32_t kLanes[4] = {0, 1, 2, 3};
    return {vbslq_f32(vcltq_s32(vld1q_s32(kLanes), vdupq_n_s32(count)), v, rest.v)};
  }
};
inline Floats operator+(Floats a, Floats b) { return {vaddq_f32(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {vsubq_f32(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {vmulq_f32(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {vdivq_f32(a.v, b.v)}; }
inline Floats max(Floats a, Floats b) { return {vmaxq_f32(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {vminq_f32(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {vfmaq_f32(c.v, a.v, b.v)}; }

#else
#error "core/simd.h is for files compiled for AVX2, AVX-512 or 64-bit ARM"
#endif

/// The first `count` < kWidth floats, the rest zero.
inline Floats load_first(const float* p, int64_t count) {
  alignas(64) float buffer[Floats::kWidth] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return Floats::load(buffer);
}

inline void store_first(Floats x, float* p, int64_t count) {
  alignas(64) float buffer[Floats::kWidth];
  x.store(buffer);
  for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

/// e^x within 2 units in the last place on [-87, 88]; x outside counts as the nearer end, NaN gives NaN. Range
/// reduction by ln 2 in two parts, then a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2].
inline Floats exp(Floats x) {
  const Floats low = Floats::all(-87.0F), high = Floats::all(88.0F);
  const Floats y = min(high, max(low, x));  // in this order of arguments a NaN stays one
  const Floats n = (y * Floats::all(1.44269504F)).round();
  const Floats r = fma(n, Floats::all(2.12194440e-4F), fma(n, Floats::all(-0.693359375F), y));
  Floats p = Floats::all(1.0F / 720);
  p = fma(p, r, Floats::all(1.0F / 120));
  p = fma(p, r, Floats::all(1.0F / 24));
  p = fma(p, r, Floats::all(1.0F / 6));
  p = fma(p, r, Floats::all(0.5F));
  p = fma(p, r, Floats::all(1.0F));
  p = fma(p, r, Floats::all(1.0F));
  // n can be 127 where p < 1 and -126 where p > 1, so the scale itself never leaves the normal range.
  return p * n.exp2_whole();
}

/// Within 5 units in the last place; NaN gives NaN. tanh(x) = (e^2x - 1) / (e^2x + 1), and e^y - 1 as exp() does, but
/// with the 1 taken from the power of two, so that nothing cancels near 0.
inline Floats tanh(Floats x) {
  const Floats end = Floats::all(20.0F), one = Floats::all(1.0F);
  const Floats y = min(end, max(Floats::zero() - end, x + x));
  const Floats n = (y * Floats::all(1.44269504F)).round();
  const Floats r = fma(n, Floats::all(2.12194440e-4F), fma(n, Floats::all(-0.693359375F), y));
  Floats p = Floats::all(1.0F / 5040);
  p = fma(p, r, Floats::all(1.0F / 720));
  p = fma(p, r, Floats::all(1.0F / 120));
  p = fma(p, r, Floats::all(1.0F / 24));
  p = fma(p, r, Floats::all(1.0F / 6));
  p = fma(p, r, Floats::all(0.5F));
  p = fma(p, r, one);
  const Floats power = n.exp2_whole(), e = fma(power, p * r, power - one);
  return e / (e + Floats::all(2.0F));
}

}  // namespace
}  // namespace turboquant
