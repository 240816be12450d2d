#include "formulas.h"

#include <limits>

namespace jax_mps::cpu {
namespace {

using namespace opcodes;

constexpr uint32_t kSign = 0x80000000u, kMagnitude = 0x7fffffffu;
constexpr uint32_t kSqrtHalf = 0x3f3504f3u;  // the bits of sqrt(1/2)
constexpr float kShift = 0x1.8p23f, kInfinity = std::numeric_limits<float>::infinity();
// ln 2 in two pieces, the first exact times an integer.
constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;

// Of vcmpps. Those that end in u hold for NaN, too.
constexpr uint8_t kEqual = 0x00, kUnordered = 0x03, kLess = 0x11, kNotLessU = 0x15,
                  kGreaterEqual = 0x1d;

}  // namespace

#define JAX_MPS_CODE_own(name)
#define JAX_MPS_CODE_none(name)
#define JAX_MPS_INSTRUCTION(name, text, operands, rule, loop, code, ...) JAX_MPS_CODE_##code(name)

bool has_formula(ChainOp op) {
  switch (op) {
#define JAX_MPS_CODE_formula(name) case ChainOp::name:
#include "chain/instructions.def"
#undef JAX_MPS_CODE_formula
    return true;
    default:
      return false;
  }
}

void ChainFormulas::write(ChainOp op, Vec y, Vec x) {
  switch (op) {
#define JAX_MPS_CODE_formula(name) \
  case ChainOp::name:              \
    return name(y, x);
#include "chain/instructions.def"
#undef JAX_MPS_CODE_formula
    default:
      return;
  }
}

#undef JAX_MPS_INSTRUCTION

void ChainFormulas::bound(Vec y, Vec x, float low, float high) {
  Scratch limit(values_);
  out_.fill(limit, constant(low));  // x comes last: it is the result if it is NaN
  out_.vector(max, y, limit, x);
  out_.fill(limit, constant(high));
  out_.vector(min, y, limit, y);
}

void ChainFormulas::polynomial(Vec y, Vec x, std::initializer_list<float> coefficients) {
  bool first = true;
  for (float c : coefficients) {
    if (first)
      out_.fill(y, constant(c));
    else
      out_.vector(multiply_add, y, x, constant(c));
    first = false;
  }
}

void ChainFormulas::replace(Vec y, Operand x, Vec a, Operand b, uint8_t predicate) {
  Mask which = values_.take_mask();
  out_.compare(which, a, b, predicate);
  out_.replace(y, x, which);
  values_.give_back(which);
}

void ChainFormulas::copy_sign(Vec y, Vec x) {
  Scratch sign(values_);
  out_.vector(bit_and, sign, x, bits(kSign));
  out_.vector(bit_and, y, y, bits(kMagnitude));
  out_.vector(bit_or, y, y, sign);
}

void ChainFormulas::exp_reduced(Vec y, Vec r) {
  Scratch squared(values_);
  polynomial(y, r, {0.00139012807f, 0.00836314492f, 0.0416668535f, 0.166665773f, 0.499999996f});
  out_.vector(mul, squared, r, r);
  out_.vector(multiply_add, y, squared, r);
}

void ChainFormulas::reduce(Vec n, Vec x) {
  Scratch whole(values_);
  out_.fill(n, constant(kShift));
  out_.vector(add_product, n, x, constant(0x1.715476p+0f));
  out_.vector(sub, whole, n, constant(kShift));
  out_.vector(sub_product, x, whole, constant(kLn2High));
  out_.vector(sub_product, x, whole, constant(kLn2Low));
}

void ChainFormulas::powers_of_two(Vec first, Vec second, Vec n) {
  out_.vector(sub_s32, second, n, constant(kShift));
  out_.shift_right_arithmetic(first, second, 1);
  out_.vector(sub_s32, second, second, first);
  for (Vec power : {first, second}) {
    out_.vector(add_s32, power, power, bits(127));
    out_.shift_left(power, power, 23);
  }
}

void ChainFormulas::exp_factors(Vec y, Vec factor, Vec x) {
  bound(x, x, -105, 90);
  reduce(factor, x);
  exp_reduced(y, x);
  out_.vector(add, y, y, constant(1.0f));
  powers_of_two(x, factor, factor);
  out_.vector(mul, y, y, x);
}

void ChainFormulas::exp(Vec y, Vec x) {
  Scratch factor(values_), copy(values_);
  out_.move(copy, x);
  exp_factors(y, factor, copy);
  out_.vector(mul, y, y, factor);
}

void ChainFormulas::exp2(Vec y, Vec x) {
  Scratch n(values_), r(values_);
  bound(r, x, -151, 129);
  out_.vector(add, n, r, constant(kShift));
  out_.vector(sub, y, n, constant(kShift));
  out_.vector(sub, r, r, y);
  out_.vector(mul, r, r, constant(0x1.62e43p-1f));
  exp_reduced(y, r);
  out_.vector(add, y, y, constant(1.0f));
  powers_of_two(r, n, n);
  out_.vector(mul, y, y, r);
  out_.vector(mul, y, y, n);
}

// 2^n (exp(r) - 1) + (2^n - 1) = (2^m (exp(r) - 1) + (2^m - 2^(m - n))) 2^(n - m)
void ChainFormulas::expm1(Vec y, Vec x) {
  Scratch n(values_), r(values_);
  bound(r, x, -20, 90);
  reduce(n, r);
  exp_reduced(y, r);
  powers_of_two(r, n, n);
  {
    Scratch less(values_);
    out_.fill(less, bits(254u << 23));  // 2^(m - n) is 1 / 2^(n - m)
    out_.vector(sub_s32, less, less, n);
    out_.vector(sub, less, r, less);
    out_.vector(multiply_add, y, r, less);
  }
  out_.vector(mul, y, y, n);
  replace(y, x, x, constant(0.0f), kEqual);
}

void ChainFormulas::log(Vec y, Vec x) {
  Scratch f(values_), squared(values_);
  {
    Mask subnormal = values_.take_mask();
    out_.compare(subnormal, x, constant(0x1p-126f), kLess);
    out_.move(f, x);
    out_.vector(mul, y, x, constant(0x1p24f));
    out_.replace(f, y, subnormal);
    out_.words(squared, subnormal, constant(24.0f));
    values_.give_back(subnormal);
  }
  // The mantissa ends in [sqrt(1/2), sqrt(2)).
  Scratch n(values_);
  out_.vector(sub_s32, f, f, bits(kSqrtHalf));
  out_.shift_right_arithmetic(n, f, 23);
  out_.vector(f32_of_s32, n, {0}, n);
  out_.vector(sub, n, n, squared);
  out_.vector(bit_and, f, f, bits(0x007fffffu));
  out_.vector(add_s32, f, f, bits(kSqrtHalf));
  out_.vector(sub, f, f, constant(1.0f));
  polynomial(y, f,
             {0.0703756133f, -0.115144883f, 0.116769845f, -0.124201588f, 0.142493271f,
              -0.166680569f, 0.200007145f, -0.24999994f, 0.333333312f});
  out_.vector(mul, squared, f, f);
  out_.vector(mul, y, y, f);
  out_.vector(mul, y, y, squared);
  out_.vector(sub_product, y, squared, constant(0.5f));
  out_.vector(add_product, y, n, constant(kLn2Low));
  out_.vector(add, y, f, y);
  out_.vector(add_product, y, n, constant(kLn2High));
  replace(y, x, x, constant(kInfinity), kNotLessU);
  replace(y, constant(-kInfinity), x, constant(0.0f), kEqual);
  replace(y, constant(std::numeric_limits<float>::quiet_NaN()), x, constant(0.0f), kLess);
}

// log(w) + (x - (w - 1)) / w with w = 1 + x
void ChainFormulas::log1p(Vec y, Vec x) {
  Scratch w(values_);
  out_.vector(add, w, x, constant(1.0f));
  log(y, w);
  Scratch lost(values_);
  out_.vector(sub, lost, w, constant(1.0f));
  out_.vector(sub, lost, x, lost);
  out_.vector(div, lost, lost, w);
  out_.vector(add, y, y, lost);
  replace(y, constant(-kInfinity), x, constant(-1.0f), kEqual);
  replace(y, x, x, constant(0.0f), kEqual);
  replace(y, x, x, constant(kInfinity), kEqual);
}

void ChainFormulas::logistic(Vec y, Vec x) {
  Scratch e(values_), t(values_);
  out_.vector(bit_or, t, x, bits(kSign));  // -|x|
  exp_factors(e, y, t);
  out_.vector(mul, e, e, y);
  out_.vector(add, t, e, constant(1.0f));
  out_.fill(y, constant(1.0f));
  out_.vector(div, y, y, t);
  out_.vector(mul, e, e, y);
  replace(y, e, x, constant(0.0f), kLess);
}

void ChainFormulas::tanh(Vec y, Vec x) {
  Scratch large(values_), t(values_);
  out_.vector(bit_and, t, x, bits(kMagnitude));
  out_.vector(add, t, t, t);
  exp_factors(y, large, t);
  out_.fill(t, constant(1.0f));
  out_.vector(multiply_add, y, large, t);
  out_.fill(large, constant(2.0f));
  out_.vector(div, large, large, y);
  out_.vector(sub, large, t, large);
  out_.vector(mul, t, x, x);
  polynomial(y, t, {-0.00609693434f, 0.0209973519f, -0.0538509521f, 0.133327701f, -0.333333289f});
  out_.vector(mul, t, t, x);
  out_.vector(multiply_add, y, t, x);
  out_.vector(bit_and, t, x, bits(kMagnitude));
  replace(y, large, t, constant(0.625f), kGreaterEqual);
  copy_sign(y, x);  // of zeros, too
}

void ChainFormulas::erf(Vec y, Vec x) {
  Scratch large(values_), t(values_);
  out_.vector(bit_and, t, x, bits(kMagnitude));
  out_.fill(large, constant(4.0f));
  out_.vector(min, t, large, t);
  polynomial(large, t,  // -log(1 - erf(t)) / t
             {-2.42126304e-06f, 3.84109099e-05f, -0.000243311399f, 0.000602467194f, 0.00161674248f,
              -0.0210185934f, 0.10398667f, 0.636175506f, 1.12845004f});
  out_.vector(mul, t, t, large);
  out_.vector(bit_xor, t, t, bits(kSign));
  exp_factors(y, large, t);
  out_.fill(t, constant(1.0f));
  out_.vector(sub_product, t, y, large);
  copy_sign(t, x);
  out_.vector(mul, large, x, x);
  polynomial(y, large,
             {8.51310081e-05f, -0.00081756385f, 0.00520385909f, -0.0268605084f, 0.11283715f,
              -0.37612635f, 1.12837917f});
  out_.vector(mul, y, x, y);
  out_.vector(bit_and, large, x, bits(kMagnitude));
  replace(y, t, large, constant(0.9f), kGreaterEqual);
}

// Zeros by their bits: XLA's threads compare subnormals as zeros.
void ChainFormulas::sign(Vec y, Vec x) {
  Scratch magnitude(values_), zero(values_);
  out_.vector(bit_and, y, x, bits(kSign));
  out_.vector(bit_or, y, y, constant(1.0f));
  out_.vector(bit_and, magnitude, x, bits(kMagnitude));
  out_.fill(zero, bits(0));
  Mask which = values_.take_mask();
  out_.compare(which, magnitude, zero, Compare::eq);
  out_.replace(y, x, which);
  values_.give_back(which);
  replace(y, x, x, x, kUnordered);
}

}  // namespace jax_mps::cpu
