// The instructions of chains by name, with the types that they take. Include only from
// code.cc.
#pragma once

#include <string_view>

#include "cpu/loops/chain.h"

namespace jax_mps::cpu {
namespace {

// What the operands of an instruction may be, and what its result is.
enum class Rule : uint8_t {
  number,    // f32, s32, u32 -> the same
  real,      // f32 -> f32
  has_sign,  // f32, s32 -> the same
  compare,   // all types -> pred
  logic,     // s32, u32, pred -> the same
  integer,   // s32, u32 -> the same
  finite,    // f32 -> pred
  select,    // pred, two of a type -> the type
  to_f32,
  to_s32,
  to_u32,
  to_pred,
};

struct Row {
  std::string_view name;
  ChainOp op;
  int operands;
  Rule rule;
};
constexpr Row kInstructions[] = {
    {"add", ChainOp::add, 2, Rule::number},
    {"sub", ChainOp::sub, 2, Rule::number},
    {"mul", ChainOp::mul, 2, Rule::number},
    {"div", ChainOp::div, 2, Rule::number},
    {"rem", ChainOp::rem, 2, Rule::number},
    {"max", ChainOp::max, 2, Rule::number},
    {"min", ChainOp::min, 2, Rule::number},
    {"pow", ChainOp::pow, 2, Rule::real},
    {"atan2", ChainOp::atan2, 2, Rule::real},
    {"neg", ChainOp::neg, 1, Rule::has_sign},
    {"abs", ChainOp::abs, 1, Rule::has_sign},
    {"sign", ChainOp::sign, 1, Rule::has_sign},
    {"square", ChainOp::square, 1, Rule::number},
    {"floor", ChainOp::floor, 1, Rule::real},
    {"ceil", ChainOp::ceil, 1, Rule::real},
    {"round_half_away", ChainOp::round_half_away, 1, Rule::real},
    {"round_half_even", ChainOp::round_half_even, 1, Rule::real},
    {"exp", ChainOp::exp, 1, Rule::real},
    {"exp2", ChainOp::exp2, 1, Rule::real},
    {"log", ChainOp::log, 1, Rule::real},
    {"log1p", ChainOp::log1p, 1, Rule::real},
    {"expm1", ChainOp::expm1, 1, Rule::real},
    {"tanh", ChainOp::tanh, 1, Rule::real},
    {"logistic", ChainOp::logistic, 1, Rule::real},
    {"sqrt", ChainOp::sqrt, 1, Rule::real},
    {"rsqrt", ChainOp::rsqrt, 1, Rule::real},
    {"cbrt", ChainOp::cbrt, 1, Rule::real},
    {"sin", ChainOp::sin, 1, Rule::real},
    {"cos", ChainOp::cos, 1, Rule::real},
    {"tan", ChainOp::tan, 1, Rule::real},
    {"erf", ChainOp::erf, 1, Rule::real},
    {"erf_inv", ChainOp::erf_inv, 1, Rule::real},
    {"is_finite", ChainOp::is_finite, 1, Rule::finite},
    {"eq", ChainOp::eq, 2, Rule::compare},
    {"ne", ChainOp::ne, 2, Rule::compare},
    {"lt", ChainOp::lt, 2, Rule::compare},
    {"le", ChainOp::le, 2, Rule::compare},
    {"gt", ChainOp::gt, 2, Rule::compare},
    {"ge", ChainOp::ge, 2, Rule::compare},
    {"and", ChainOp::and_, 2, Rule::logic},
    {"or", ChainOp::or_, 2, Rule::logic},
    {"xor", ChainOp::xor_, 2, Rule::logic},
    {"not", ChainOp::not_, 1, Rule::logic},
    {"shift_left", ChainOp::shift_left, 2, Rule::integer},
    {"shift_right_logical", ChainOp::shift_right_logical, 2, Rule::integer},
    {"shift_right_arithmetic", ChainOp::shift_right_arithmetic, 2, Rule::integer},
    {"select", ChainOp::select, 3, Rule::select},
    {"clamp", ChainOp::clamp, 3, Rule::number},
    {"convert_f32", ChainOp::convert_f32, 1, Rule::to_f32},
    {"convert_s32", ChainOp::convert_s32, 1, Rule::to_s32},
    {"convert_u32", ChainOp::convert_u32, 1, Rule::to_u32},
    {"convert_pred", ChainOp::convert_pred, 1, Rule::to_pred},
    {"round_bf16", ChainOp::round_bf16, 1, Rule::real},
    {"round_f16", ChainOp::round_f16, 1, Rule::real},
};

}  // namespace
}  // namespace jax_mps::cpu
