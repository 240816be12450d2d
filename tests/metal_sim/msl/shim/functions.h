// MSL's common, math and integer functions, element by element; half and bfloat compute in float.
#pragma once
#include "types.h"

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define MAXFLOAT 0x1.fffffep127f
#define FLT_MAX 0x1.fffffep127f
#define FLT_MIN 0x1p-126f
#define FLT_EPSILON 0x1p-23f
#define HALF_MAX 0x1.ffcp15h
#define M_PI_F 3.14159274101257324219f
#define M_PI_2_F 1.57079637050628662109f
#define M_1_PI_F 0.318309886183790671538f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.707106781186547524401f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.693147180559945309417f
#define M_E_F 2.71828174591064453125f

namespace msl {

template <class T>
constexpr bool kReal =
    std::is_same_v<T, float> || std::is_same_v<T, half> || std::is_same_v<T, bfloat>;

template <class T, class F, class... Rest>
T map(F f, T first, Rest... rest) {
  T out{};
  for (int i = 0; i < kCount<T>; i++) set(out, i, Element<T>(f(get(first, i), get(rest, i)...)));
  return out;
}

// The type in which two arguments meet: a scalar joins a vector, the wider of two scalars wins.
template <class A, class B>
constexpr auto meet() {
  if constexpr (kCount<A> > 1)
    return A{};
  else if constexpr (kCount<B> > 1)
    return B{};
  else
    return decltype(A{} + B{}){};
}
template <class A, class B>
using Meet = std::conditional_t<std::is_same_v<A, B>, A, decltype(meet<A, B>())>;

inline float rint_even(float x) { return __builtin_rintf(x); }

}  // namespace msl

namespace metal {

#define MSL_UNARY(name, expression)                                         \
  template <class T, class = std::enable_if_t<msl::kReal<msl::Element<T>>>> \
  T name(T v) {                                                             \
    return msl::map([](float x) -> float { return expression; }, v);        \
  }
#define MSL_BINARY(name, expression)                                                   \
  template <class A, class B, class T = msl::Meet<A, B>,                               \
            class = std::enable_if_t<msl::kReal<msl::Element<T>>>>                     \
  T name(A a, B b) {                                                                   \
    return msl::map([](float x, float y) -> float { return expression; }, T(a), T(b)); \
  }
#define MSL_MATH                                                             \
  MSL_UNARY(exp, __builtin_expf(x))                                          \
  MSL_UNARY(exp2, __builtin_exp2f(x))                                        \
  MSL_UNARY(exp10, __builtin_powf(10.0f, x))                                 \
  MSL_UNARY(log, __builtin_logf(x))                                          \
  MSL_UNARY(log2, __builtin_log2f(x))                                        \
  MSL_UNARY(log10, __builtin_log10f(x))                                      \
  MSL_UNARY(sqrt, __builtin_sqrtf(x))                                        \
  MSL_UNARY(rsqrt, 1.0f / __builtin_sqrtf(x))                                \
  MSL_UNARY(sin, __builtin_sinf(x))                                          \
  MSL_UNARY(cos, __builtin_cosf(x))                                          \
  MSL_UNARY(tan, __builtin_tanf(x))                                          \
  MSL_UNARY(sinh, __builtin_sinhf(x))                                        \
  MSL_UNARY(cosh, __builtin_coshf(x))                                        \
  MSL_UNARY(tanh, __builtin_tanhf(x))                                        \
  MSL_UNARY(asin, __builtin_asinf(x))                                        \
  MSL_UNARY(acos, __builtin_acosf(x))                                        \
  MSL_UNARY(atan, __builtin_atanf(x))                                        \
  MSL_UNARY(asinh, __builtin_asinhf(x))                                      \
  MSL_UNARY(acosh, __builtin_acoshf(x))                                      \
  MSL_UNARY(atanh, __builtin_atanhf(x))                                      \
  MSL_UNARY(fabs, __builtin_fabsf(x))                                        \
  MSL_UNARY(floor, __builtin_floorf(x))                                      \
  MSL_UNARY(ceil, __builtin_ceilf(x))                                        \
  MSL_UNARY(trunc, __builtin_truncf(x))                                      \
  MSL_UNARY(round, __builtin_roundf(x))                                      \
  MSL_UNARY(rint, msl::rint_even(x))                                         \
  MSL_UNARY(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f)) \
  MSL_BINARY(pow, __builtin_powf(x, y))                                      \
  MSL_BINARY(powr, __builtin_powf(x, y))                                     \
  MSL_BINARY(atan2, __builtin_atan2f(x, y))                                  \
  MSL_BINARY(fmod, __builtin_fmodf(x, y))                                    \
  MSL_BINARY(fmin, __builtin_fminf(x, y))                                    \
  MSL_BINARY(fmax, __builtin_fmaxf(x, y))                                    \
  MSL_BINARY(divide, x / y)

MSL_MATH
MSL_UNARY(saturate, x != x ? 0.0f : __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f))
MSL_BINARY(copysign, __builtin_copysignf(x, y))
MSL_BINARY(step, y < x ? 0.0f : 1.0f)
MSL_BINARY(fdim, __builtin_fdimf(x, y))
MSL_BINARY(nextafter, __builtin_nextafterf(x, y))
namespace precise {
MSL_MATH
}
namespace fast {
MSL_MATH
}
#undef MSL_MATH
#undef MSL_UNARY
#undef MSL_BINARY

template <class T>
T sign(T v) {
  return msl::map([](auto x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }, v);
}
template <class T>
T abs(T v) {
  if constexpr (msl::kReal<msl::Element<T>>)
    return fabs(v);
  else
    return msl::map([](auto x) { return x < 0 ? -x : x; }, v);
}
// NaN loses, as in fmin and fmax.
template <class A, class B, class T = msl::Meet<A, B>>
T max(A a, B b) {
  return msl::map([](auto x, auto y) { return x != x ? y : (x < y ? y : x); }, T(a), T(b));
}
template <class A, class B, class T = msl::Meet<A, B>>
T min(A a, B b) {
  return msl::map([](auto x, auto y) { return x != x ? y : (y < x ? y : x); }, T(a), T(b));
}
template <class T>
T max3(T a, T b, T c) {
  return max(max(a, b), c);
}
template <class T>
T min3(T a, T b, T c) {
  return min(min(a, b), c);
}
template <class T, class L, class H>
T clamp(T v, L low, H high) {
  return min(max(v, T(low)), T(high));
}
template <class T>
T fma(T a, T b, T c) {
  return msl::map([](float x, float y, float z) { return __builtin_fmaf(x, y, z); }, a, b, c);
}
template <class T, class S>
T mix(T a, T b, S t) {
  return a + (b - a) * T(t);
}
template <class T>
T smoothstep(T e0, T e1, T x) {
  T t = saturate((x - e0) / (e1 - e0));
  return t * t * (T(3.0f) - T(2.0f) * t);
}
template <class T>
T ldexp(T v, int e) {
  return msl::map([e](float x) { return __builtin_ldexpf(x, e); }, v);
}
inline float modf(float x, float& whole) {
  whole = __builtin_truncf(x);
  return __builtin_copysignf(__builtin_isinf(x) ? 0.0f : x - whole, x);
}

template <class T>
auto isnan(T v) {
  if constexpr (msl::kCount<T> == 1)
    return bool(v != v);
  else
    return v != v;
}
template <class T>
auto isinf(T v) {
  if constexpr (msl::kCount<T> == 1)
    return bool(__builtin_isinf(float(v)));
  else
    return msl::map([](int, float x) { return __builtin_isinf(x); }, vec<int, msl::kCount<T>>{}, v);
}
template <class T>
auto isfinite(T v) {
  if constexpr (msl::kCount<T> == 1)
    return bool(__builtin_isfinite(float(v)));
  else
    return msl::map([](int, float x) { return __builtin_isfinite(x); }, vec<int, msl::kCount<T>>{},
                    v);
}
template <class T>
bool signbit(T v) {
  return __builtin_signbit(float(v));
}
template <class T>
bool any(T v) {
  for (int i = 0; i < msl::kCount<T>; i++)
    if (msl::get(v, i)) return true;
  return false;
}
template <class T>
bool all(T v) {
  for (int i = 0; i < msl::kCount<T>; i++)
    if (!msl::get(v, i)) return false;
  return true;
}
template <class T, class C>
T select(T no, T yes, C condition) {
  T out = no;
  for (int i = 0; i < msl::kCount<T>; i++)
    if (msl::get(condition, msl::kCount<C> == 1 ? 0 : i)) msl::set(out, i, msl::get(yes, i));
  return out;
}

template <class T>
msl::Element<T> dot(T a, T b) {
  msl::Element<T> sum = 0;
  for (int i = 0; i < msl::kCount<T>; i++) sum += msl::get(a, i) * msl::get(b, i);
  return sum;
}
template <class T>
auto length(T v) {
  return sqrt(dot(v, v));
}
template <class T>
T normalize(T v) {
  return v * T(rsqrt(dot(v, v)));
}

template <class T>
T popcount(T v) {
  return msl::map([](auto x) { return __builtin_popcountll(std::make_unsigned_t<decltype(x)>(x)); },
                  v);
}
template <class T>
T clz(T v) {
  return msl::map(
      [](auto x) {
        return x ? __builtin_clzll(std::make_unsigned_t<decltype(x)>(x)) - 64 + 8 * int(sizeof(x))
                 : 8 * int(sizeof(x));
      },
      v);
}
template <class T>
T ctz(T v) {
  return msl::map([](auto x) { return x ? __builtin_ctzll(x) : 8 * int(sizeof(x)); }, v);
}
template <class T>
T mulhi(T a, T b) {
  return msl::map(
      [](auto x, auto y) {
        using W = std::conditional_t<std::is_signed_v<decltype(x)>, __int128, unsigned __int128>;
        return (W(x) * W(y)) >> (8 * sizeof(x));
      },
      a, b);
}
template <class T>
T rotate(T v, T by) {
  return msl::map(
      [](auto x, auto n) {
        using U = std::make_unsigned_t<decltype(x)>;
        constexpr U bits = 8 * sizeof(x);
        const U m = U(n) % bits;
        return m ? U(U(x) << m) | U(U(x) >> (bits - m)) : U(x);
      },
      v, by);
}
template <class T>
T madhi(T a, T b, T c) {
  return mulhi(a, b) + c;
}

template <class T>
struct numeric_limits {
  static constexpr bool real = msl::kReal<T>;
  static constexpr T max() {
    if constexpr (std::is_same_v<T, half>)
      return half(65504.0f);
    else if constexpr (std::is_same_v<T, bfloat>)
      return bfloat(0x1.fep127f);
    else if constexpr (real)
      return T(FLT_MAX);
    else if constexpr (T(-1) < T(0))
      return T(~(std::make_unsigned_t<T>(1) << (8 * sizeof(T) - 1)));
    else
      return T(~T(0));
  }
  static constexpr T lowest() {
    if constexpr (real)
      return T(-float(max()));
    else
      return T(~max());
  }
  static constexpr T min() {
    if constexpr (std::is_same_v<T, half>)
      return half(0x1p-14f);
    else if constexpr (real)
      return T(FLT_MIN);
    else
      return T(~max());
  }
  static constexpr T infinity() { return T(INFINITY); }
  static constexpr T quiet_NaN() { return T(NAN); }
  static constexpr T epsilon() {
    return T(std::is_same_v<T, half> ? 0x1p-10f : std::is_same_v<T, bfloat> ? 0x1p-7f : 0x1p-23f);
  }
};

}  // namespace metal
