// The instructions of chains.
#include "chain_code.h"

#include <bit>

#include "half.h"
#include "math.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

using s32 = int32_t;
using u32 = uint32_t;

template <class X, class Y, Y (*f)(X)>
void unary(const void* a, const void*, const void*, void* y, int64_t n) {
  auto* x = static_cast<const X*>(a);
  auto* out = static_cast<Y*>(y);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = f(x[i]);
}

// `scalars` is a mask of the operands that are one element.
template <class X, class Y, Y (*f)(X, X), unsigned scalars>
void binary(const void* a, const void* b, const void*, void* y, int64_t n) {
  auto *p = static_cast<const X*>(a), *q = static_cast<const X*>(b);
  auto* out = static_cast<Y*>(y);
  X p0 = *p, q0 = *q;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = f(scalars & 1 ? p0 : p[i], scalars & 2 ? q0 : q[i]);
}

template <class A, class X, X (*f)(A, X, X), unsigned scalars>
void ternary(const void* a, const void* b, const void* c, void* y, int64_t n) {
  auto* p = static_cast<const A*>(a);
  auto *q = static_cast<const X*>(b), *r = static_cast<const X*>(c);
  auto* out = static_cast<X*>(y);
  A p0 = *p;
  X q0 = *q, r0 = *r;
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    out[i] = f(scalars & 1 ? p0 : p[i], scalars & 2 ? q0 : q[i], scalars & 4 ? r0 : r[i]);
}

void splat(const void* a, const void*, const void*, void* y, int64_t n) {
  u32 x = *static_cast<const u32*>(a);
  auto* out = static_cast<u32*>(y);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = x;
}

template <class X, class Y, Y (*f)(X, X)>
ChainFn binary_of(unsigned scalars) {
  constexpr ChainFn forms[] = {binary<X, Y, f, 0>, binary<X, Y, f, 1>, binary<X, Y, f, 2>};
  return scalars < 3 ? forms[scalars] : nullptr;
}

template <class X, X (*f)(X, X, X)>
ChainFn ternary_of(unsigned scalars) {
  constexpr ChainFn forms[] = {
      ternary<X, X, f, 0>, ternary<X, X, f, 1>, ternary<X, X, f, 2>, nullptr,
      ternary<X, X, f, 4>, ternary<X, X, f, 5>, ternary<X, X, f, 6>, nullptr};
  return forms[scalars];
}

// Arithmetic. Integers wrap around, and division by zero gives what XLA defines.
template <class X>
X add(X a, X b) {
  return a + b;
}
template <class X>
X sub(X a, X b) {
  return a - b;
}
template <class X>
X mul(X a, X b) {
  return a * b;
}
template <class X>
X max(X a, X b) {
  return a > b ? a : b;
}
template <class X>
X min(X a, X b) {
  return a < b ? a : b;
}
template <>
float max(float a, float b) {
  return maximum(a, b);
}
template <>
float min(float a, float b) {
  return minimum(a, b);
}
float div(float a, float b) { return a / b; }
u32 div_u32(u32 a, u32 b) { return b == 0 ? ~u32{0} : a / b; }
u32 rem_u32(u32 a, u32 b) { return b == 0 ? a : a % b; }
s32 div_s32(s32 a, s32 b) {
  if (b == 0) return -1;
  return b == -1 ? static_cast<s32>(-static_cast<u32>(a)) : a / b;
}
s32 rem_s32(s32 a, s32 b) {
  if (b == 0) return a;
  return b == -1 ? 0 : a % b;
}
float rem(float a, float b) { return __builtin_fmodf(a, b); }
// What XLA's threads take for a zero is one to the library, too: it goes wrong where it finds a
// subnormal by its bits and computes with a zero.
float without_subnormals(float x) { return x == 0 ? copy_sign(0, x) : x; }
float power(float a, float b) { return __builtin_powf(without_subnormals(a), b); }
float atan2(float a, float b) {
  return __builtin_atan2f(without_subnormals(a), without_subnormals(b));
}
float multiply_add(float a, float b, float c) { return a * b + c; }
float multiply_sub(float a, float b, float c) { return a * b - c; }
float multiply_rsub(float a, float b, float c) { return c - a * b; }

// One operand.
float neg(float x) { return -x; }
s32 neg_s32(s32 x) { return static_cast<s32>(-static_cast<u32>(x)); }
s32 abs_s32(s32 x) { return x < 0 ? neg_s32(x) : x; }
// By bits: XLA's threads compare subnormals as zeros.
float sign(float x) {
  float one = copy_sign(1.0f, x);
  return (std::bit_cast<u32>(x) & 0x7fffffffu) == 0 || x != x ? x : one;
}
s32 sign_s32(s32 x) { return (x > 0) - (x < 0); }
float square(float x) { return x * x; }
u32 square_u32(u32 x) { return x * x; }
float floor(float x) { return __builtin_floorf(x); }
float ceil(float x) { return __builtin_ceilf(x); }
float round_half_even(float x) { return __builtin_rintf(x); }
float round_half_away(float x) {
  float whole = __builtin_truncf(x);
  float step = abs(x - whole) >= 0.5f ? 1.0f : 0.0f;  // false for the NaN of inf - inf
  return copy_sign(abs(whole) + step, x);
}
float sqrt(float x) { return __builtin_sqrtf(x); }
float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
float cbrt(float x) { return __builtin_cbrtf(without_subnormals(x)); }
float sin(float x) { return __builtin_sinf(x); }
float cos(float x) { return __builtin_cosf(x); }
float tan(float x) { return __builtin_tanf(x); }
float logistic(float x) { return sigmoid(x); }
u32 is_finite(float x) { return abs(x) < __builtin_inff(); }

// Two Halley steps in double from an estimate by logarithms are good to the last place.
float erf_inv(float x) {
  if (!(x > -1 && x < 1)) return x == 1 || x == -1 ? x * __builtin_inff() : __builtin_nanf("");
  if (x == 0) return x;
  double a = x < 0 ? -static_cast<double>(x) : x;
  double l = __builtin_log1p(-a * a), t = 4.3307467508 + l / 2;
  double y =
      a < 0.1 ? a * 0.886226925452758 : __builtin_sqrt(__builtin_sqrt(t * t - l / 0.147) - t);
  for (int i = 0; i < 2; i++) {
    // erf(y) - a, without the cancellation near 1
    double error = a < 0.5 ? __builtin_erf(y) - a : (1 - a) - __builtin_erfc(y);
    double step = error * 0.886226925452758 * __builtin_exp(y * y);
    y -= step / (1 + y * step);
  }
  return static_cast<float>(x < 0 ? -y : y);
}

// Comparison and logic.
template <class X>
u32 eq(X a, X b) {
  return a == b;
}
template <class X>
u32 ne(X a, X b) {
  return a != b;
}
template <class X>
u32 lt(X a, X b) {
  return a < b;
}
template <class X>
u32 le(X a, X b) {
  return a <= b;
}
template <class X>
u32 gt(X a, X b) {
  return a > b;
}
template <class X>
u32 ge(X a, X b) {
  return a >= b;
}
u32 bit_and(u32 a, u32 b) { return a & b; }
u32 bit_or(u32 a, u32 b) { return a | b; }
u32 bit_xor(u32 a, u32 b) { return a ^ b; }
u32 bit_not(u32 x) { return ~x; }
u32 logical_not(u32 x) { return x ^ 1; }
u32 shift_left(u32 a, u32 b) { return b < 32 ? a << (b & 31) : 0; }
u32 shift_right_logical(u32 a, u32 b) { return b < 32 ? a >> (b & 31) : 0; }
s32 shift_right_arithmetic(s32 a, s32 b) { return a >> (static_cast<u32>(b) < 32 ? b : 31); }
u32 select(u32 which, u32 no, u32 yes) { return which ? yes : no; }
template <class X>
X clamp(X low, X x, X high) {
  return min(max(x, low), high);
}

// Conversions. Floats saturate, and NaN becomes 0.
u32 identity(u32 x) { return x; }
u32 truth(u32 x) { return x != 0; }
u32 truth_f32(float x) { return x != 0; }
float from_s32(s32 x) { return static_cast<float>(x); }
float from_u32(u32 x) { return static_cast<float>(x); }
s32 to_s32(float x) {
  float bounded = x != x ? 0.0f : (x < -0x1p31f ? -0x1p31f : x);
  s32 whole = static_cast<s32>(bounded >= 0x1p31f ? 0.0f : bounded);
  return bounded >= 0x1p31f ? 0x7fffffff : whole;
}
u32 to_u32(float x) {
  float bounded = x > 0 ? x : 0.0f;
  u32 whole = static_cast<u32>(bounded >= 0x1p32f ? 0.0f : bounded);
  return bounded >= 0x1p32f ? ~u32{0} : whole;
}
float round_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }
float round_f16(float x) { return f16_to_f32(f32_to_f16(x)); }

ChainFn float_unary(ChainOp op) {
  switch (op) {
#define JAX_MPS_LOOP_own(name)
#define JAX_MPS_LOOP_unary(name) \
  case ChainOp::name:            \
    return unary<float, float, name>;
#define JAX_MPS_INSTRUCTION(name, text, operands, rule, loop, ...) JAX_MPS_LOOP_##loop(name)
#include "chain/instructions.def"
#undef JAX_MPS_INSTRUCTION
    case ChainOp::is_finite:
      return unary<float, u32, is_finite>;
    default:
      return nullptr;
  }
}

ChainFn signed_unary(ChainOp op) {
  switch (op) {
    case ChainOp::neg:
      return unary<s32, s32, neg_s32>;
    case ChainOp::abs:
      return unary<s32, s32, abs_s32>;
    case ChainOp::sign:
      return unary<s32, s32, sign_s32>;
    default:
      return nullptr;
  }
}

ChainFn conversion(ChainOp op, ChainType from) {
  bool real = from == ChainType::f32;
  switch (op) {
    case ChainOp::convert_f32:
      if (real) return unary<u32, u32, identity>;
      return from == ChainType::s32 ? unary<s32, float, from_s32> : unary<u32, float, from_u32>;
    case ChainOp::convert_s32:
      return real ? unary<float, s32, to_s32> : unary<u32, u32, identity>;
    case ChainOp::convert_u32:
      return real ? unary<float, u32, to_u32> : unary<u32, u32, identity>;
    case ChainOp::convert_pred:
      return real ? unary<float, u32, truth_f32> : unary<u32, u32, truth>;
    default:
      return nullptr;
  }
}

// The operations that every type has, on values of type X.
template <class X>
ChainFn common(ChainOp op, unsigned scalars) {
  switch (op) {
#define JAX_MPS_BINARY(name, Y) \
  case ChainOp::name:           \
    return binary_of<X, Y, name<X>>(scalars);
    JAX_MPS_BINARY(add, X)
    JAX_MPS_BINARY(sub, X)
    JAX_MPS_BINARY(mul, X)
    JAX_MPS_BINARY(max, X)
    JAX_MPS_BINARY(min, X)
    JAX_MPS_BINARY(eq, u32)
    JAX_MPS_BINARY(ne, u32)
    JAX_MPS_BINARY(lt, u32)
    JAX_MPS_BINARY(le, u32)
    JAX_MPS_BINARY(gt, u32)
    JAX_MPS_BINARY(ge, u32)
#undef JAX_MPS_BINARY
    case ChainOp::clamp:
      return ternary_of<X, clamp<X>>(scalars);
    default:
      return nullptr;
  }
}

ChainFn float_binary(ChainOp op, unsigned scalars) {
  switch (op) {
    case ChainOp::div:
      return binary_of<float, float, div>(scalars);
    case ChainOp::rem:
      return binary_of<float, float, rem>(scalars);
    case ChainOp::pow:
      return binary_of<float, float, power>(scalars);
    case ChainOp::atan2:
      return binary_of<float, float, atan2>(scalars);
    case ChainOp::multiply_add:
      return ternary_of<float, multiply_add>(scalars);
    case ChainOp::multiply_sub:
      return ternary_of<float, multiply_sub>(scalars);
    case ChainOp::multiply_rsub:
      return ternary_of<float, multiply_rsub>(scalars);
    default:
      return nullptr;
  }
}

ChainFn integer_binary(ChainOp op, ChainType type, unsigned scalars) {
  bool is_signed = type == ChainType::s32;
  switch (op) {
    case ChainOp::add:  // addition, subtraction and products wrap around in unsigned words
    case ChainOp::sub:
    case ChainOp::mul:
      return common<u32>(op, scalars);
    case ChainOp::div:
      return is_signed ? binary_of<s32, s32, div_s32>(scalars)
                       : binary_of<u32, u32, div_u32>(scalars);
    case ChainOp::rem:
      return is_signed ? binary_of<s32, s32, rem_s32>(scalars)
                       : binary_of<u32, u32, rem_u32>(scalars);
    case ChainOp::and_:
      return binary_of<u32, u32, bit_and>(scalars);
    case ChainOp::or_:
      return binary_of<u32, u32, bit_or>(scalars);
    case ChainOp::xor_:
      return binary_of<u32, u32, bit_xor>(scalars);
    case ChainOp::shift_left:
      return binary_of<u32, u32, shift_left>(scalars);
    case ChainOp::shift_right_logical:
      return binary_of<u32, u32, shift_right_logical>(scalars);
    case ChainOp::shift_right_arithmetic:
      return binary_of<s32, s32, shift_right_arithmetic>(scalars);
    default:
      return is_signed ? common<s32>(op, scalars) : common<u32>(op, scalars);
  }
}

}  // namespace

ChainFn find_instruction(ChainOp op, ChainType type, unsigned scalars) {
  bool real = type == ChainType::f32;
  switch (op) {
    case ChainOp::copy:
      return scalars ? nullptr : unary<u32, u32, identity>;
    case ChainOp::splat:
      return splat;
    case ChainOp::not_:
      if (scalars) return nullptr;
      return type == ChainType::pred ? unary<u32, u32, logical_not> : unary<u32, u32, bit_not>;
    case ChainOp::select: {
      constexpr ChainFn forms[] = {ternary<u32, u32, select, 0>, ternary<u32, u32, select, 2>,
                                   ternary<u32, u32, select, 4>, ternary<u32, u32, select, 6>};
      return scalars & 1 ? nullptr : forms[scalars / 2];
    }
    default:
      break;
  }
  if (ChainFn f = conversion(op, type)) return scalars ? nullptr : f;
  if (op == ChainOp::square && type != ChainType::f32)
    return scalars ? nullptr : unary<u32, u32, square_u32>;
  if (ChainFn f = real ? float_unary(op) : signed_unary(op)) return scalars ? nullptr : f;
  if (!real) return integer_binary(op, type, scalars);
  ChainFn f = float_binary(op, scalars);
  return f ? f : common<float>(op, scalars);
}

}  // namespace jax_mps::cpu::JAX_MPS_ISA
