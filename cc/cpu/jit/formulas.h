// Elementary functions as machine code: the formulas of loops/math.h, operation by operation.
#pragma once

#include <initializer_list>

#include "values.h"

namespace jax_mps::cpu {

// Whether a function of one float is among them.
bool has_formula(ChainOp op);

class ChainFormulas {
 public:
  ChainFormulas(Assembler& out, ChainValues& values) : out_(out), values_(values) {}

  // y = op(x); y is not x.
  void write(ChainOp op, Vec y, Vec x);

 private:
  // A vector that is given back at the end of its scope.
  class Scratch {
   public:
    explicit Scratch(ChainValues& values) : values_(values), vec_(values.take()) {}
    ~Scratch() { values_.give_back(vec_); }
    Scratch(const Scratch&) = delete;
    operator Vec() const { return vec_; }
    operator Operand() const { return vec_; }

   private:
    ChainValues& values_;
    Vec vec_;
  };

  void exp(Vec y, Vec x);
  void exp2(Vec y, Vec x);
  void expm1(Vec y, Vec x);
  void log(Vec y, Vec x);
  void log1p(Vec y, Vec x);
  void logistic(Vec y, Vec x);
  void tanh(Vec y, Vec x);
  void erf(Vec y, Vec x);
  void sign(Vec y, Vec x);

  // y = x kept within [low, high], but NaN stays.
  void bound(Vec y, Vec x, float low, float high);
  // n = x / ln 2 + 1.5 * 2^23, whose low bits are the nearest integer; x loses that times ln 2.
  void reduce(Vec n, Vec x);
  // exp(r) - 1 for |r| <= ln(2) / 2
  void exp_reduced(Vec y, Vec r);
  // Two floats whose product is 2^n for such an n, so that the ends overflow to infinity and
  // underflow gradually; second may be n.
  void powers_of_two(Vec first, Vec second, Vec n);
  // exp(x) = y * factor; x is lost.
  void exp_factors(Vec y, Vec factor, Vec x);
  // y = (...(c0 x + c1) x + ...)
  void polynomial(Vec y, Vec x, std::initializer_list<float> coefficients);
  void copy_sign(Vec y, Vec sign);
  // y = x where a compares so with b.
  void replace(Vec y, Operand x, Vec a, Operand b, uint8_t predicate);
  Operand constant(float x) { return out_.constant(x); }
  Operand bits(uint32_t word) { return out_.constant(word); }

  Assembler& out_;
  ChainValues& values_;
};

}  // namespace jax_mps::cpu
