// Elementary functions that the compiler vectorises: no branches, no calls, no tables. The
// polynomials are least squares fits with weights that level the relative error; each function is
// good to a few units in the last place. Include only from files of loops/.
#pragma once

#include <bit>
#include <cstdint>

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

inline float select(bool which, float yes, float no) { return which ? yes : no; }
inline float abs(float x) { return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7fffffffu); }
inline float copy_sign(float magnitude, float sign) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(magnitude) & 0x7fffffffu) |
                              (std::bit_cast<uint32_t>(sign) & 0x80000000u));
}
// NaN wins in both, as in lax.max and lax.min; of two zeros +0 is the greater.
inline float maximum(float x, float y) {
  float equal = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & std::bit_cast<uint32_t>(y));
  float greater = x > y || x != x ? x : y;
  return x == y ? equal : greater;
}
inline float minimum(float x, float y) {
  float equal = std::bit_cast<float>(std::bit_cast<uint32_t>(x) | std::bit_cast<uint32_t>(y));
  float less = x < y || x != x ? x : y;
  return x == y ? equal : less;
}

inline float power_of_two(int32_t n) { return std::bit_cast<float>((n + 127) << 23); }

// exp(r) for |r| <= ln(2) / 2
inline float exp_reduced(float r) {
  float p = 0.00139012807f;
  p = p * r + 0.00836314492f;
  p = p * r + 0.0416668535f;
  p = p * r + 0.166665773f;
  p = p * r + 0.499999996f;
  return p * (r * r) + r + 1.0f;
}

// p * 2^n in two steps, so that the ends overflow to infinity and underflow gradually.
inline float scale(float p, int32_t n) {
  int32_t half = n >> 1;
  return p * power_of_two(half) * power_of_two(n - half);
}

// The integer nearest to x, in the low bits: adding 1.5 * 2^23 rounds.
inline float shift_to_integer(float x) { return x + 0x1.8p23f; }
inline int32_t shifted_integer(float shifted) {
  return std::bit_cast<int32_t>(shifted) - 0x4b400000;
}
// x - n ln 2, in two pieces, the first exact times n.
inline float minus_ln2(float x, float n) { return (x - n * 0x1.62ep-1f) - n * 0x1.0bfbe8p-15f; }

inline float exp(float x) {
  float bounded = x < -105.0f ? -105.0f : x;
  bounded = bounded > 90.0f ? 90.0f : bounded;
  float shifted = shift_to_integer(bounded * 0x1.715476p+0f);
  float r = minus_ln2(bounded, shifted - 0x1.8p23f);
  return scale(exp_reduced(r), shifted_integer(shifted));
}

inline float exp2(float x) {
  float bounded = x < -151.0f ? -151.0f : x;
  bounded = bounded > 129.0f ? 129.0f : bounded;
  float shifted = shift_to_integer(bounded);
  float r = (bounded - (shifted - 0x1.8p23f)) * 0x1.62e43p-1f;
  return scale(exp_reduced(r), shifted_integer(shifted));
}

// 2^n (exp(r) - 1) + (2^n - 1), with n = 0 around 0, where nothing may cancel; 2^n in two steps, as
// in scale().
inline float expm1(float x) {
  float bounded = x < -20.0f ? -20.0f : x;
  bounded = bounded > 90.0f ? 90.0f : bounded;
  float shifted = shift_to_integer(bounded * 0x1.715476p+0f);
  float r = minus_ln2(bounded, shifted - 0x1.8p23f);
  float p = 0.00139012807f;
  p = p * r + 0.00836314492f;
  p = p * r + 0.0416668535f;
  p = p * r + 0.166665773f;
  p = p * r + 0.499999996f;
  p = p * (r * r) + r;
  int32_t n = shifted_integer(shifted), half = n >> 1;
  float first = power_of_two(half), second = power_of_two(n - half);
  float result = (first * p + (first - power_of_two(half - n))) * second;
  return x == 0 ? x : result;
}

inline float log(float x) {
  bool subnormal = x < 0x1p-126f;
  float scaled = subnormal ? x * 0x1p24f : x;
  uint32_t bits = std::bit_cast<uint32_t>(scaled);
  uint32_t shifted = bits - 0x3f3504f3u;  // sqrt(1/2): the mantissa ends in [sqrt(1/2), sqrt(2))
  float n = static_cast<float>(static_cast<int32_t>(shifted) >> 23) - (subnormal ? 24.0f : 0.0f);
  float f = std::bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  float p = 0.0703756133f;
  p = p * f - 0.115144883f;
  p = p * f + 0.116769845f;
  p = p * f - 0.124201588f;
  p = p * f + 0.142493271f;
  p = p * f - 0.166680569f;
  p = p * f + 0.200007145f;
  p = p * f - 0.24999994f;
  p = p * f + 0.333333312f;
  float f2 = f * f;
  float result = n * 0x1.62ep-1f + (f + (n * 0x1.0bfbe8p-15f + (p * f * f2 - 0.5f * f2)));
  const float inf = __builtin_inff();
  result = x == inf || x != x ? x : result;
  result = x == 0 ? -inf : result;
  return x < 0 ? __builtin_nanf("") : result;
}

// log(1 + x) for x in [0, 1]
inline float log1p_unit(float x) {
  float w = 1.0f + x;
  return log(w) + (x - (w - 1.0f)) / w;
}

inline float log1p(float x) {
  float w = 1.0f + x;
  float result = log(w) + (x - (w - 1.0f)) / w;
  bool exact = x == 0 || x == __builtin_inff();
  result = x == -1.0f ? -__builtin_inff() : result;
  return exact ? x : result;
}

inline float sigmoid(float x) {
  float e = exp(-abs(x));
  float y = 1.0f / (1.0f + e);
  return x < 0 ? e * y : y;
}

inline float tanh(float x) {
  float u = x * x;
  float p = -0.00609693434f;
  p = p * u + 0.0209973519f;
  p = p * u - 0.0538509521f;
  p = p * u + 0.133327701f;
  p = p * u - 0.333333289f;
  float small = x + x * u * p;
  float large = 1.0f - 2.0f / (exp(2.0f * abs(x)) + 1.0f);
  return copy_sign(abs(x) < 0.625f || x != x ? small : large, x);  // of zeros, too
}

inline float erf(float x) {
  float u = x * x;
  float p = 8.51310081e-05f;
  p = p * u - 0.00081756385f;
  p = p * u + 0.00520385909f;
  p = p * u - 0.0268605084f;
  p = p * u + 0.11283715f;
  p = p * u - 0.37612635f;
  p = p * u + 1.12837917f;
  float a = abs(x);
  float t = a > 4.0f ? 4.0f : a;
  float q = -2.42126304e-06f;  // -log(1 - erf(t)) / t
  q = q * t + 3.84109099e-05f;
  q = q * t - 0.000243311399f;
  q = q * t + 0.000602467194f;
  q = q * t + 0.00161674248f;
  q = q * t - 0.0210185934f;
  q = q * t + 0.10398667f;
  q = q * t + 0.636175506f;
  q = q * t + 1.12845004f;
  float large = copy_sign(1.0f - exp(-t * q), x);
  return a < 0.9f || x != x ? x * p : large;
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
