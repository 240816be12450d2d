#include "chain_msl.h"

namespace jax_mps::metal {
namespace {

std::string call(const char* function, const std::vector<std::string>& x) {
  std::string text = std::string(function) + "(";
  for (size_t i = 0; i < x.size(); i++) text += (i ? ", " : "") + x[i];
  return text + ")";
}

std::string infix(const char* op, const std::vector<std::string>& x) {
  return "(" + x[0] + " " + op + " " + x[1] + ")";
}
std::string truth(const char* op, const std::vector<std::string>& x) {
  return "uint(" + x[0] + " " + op + " " + x[1] + ")";
}

// The functions of one operation for float, int and uint; an empty one is an infix operator.
struct Arithmetic {
  ChainOp op;
  const char *sign, *real, *integer, *natural;
};
constexpr Arithmetic kArithmetic[] = {
    {ChainOp::add, "+", "", "add_int", ""},
    {ChainOp::sub, "-", "", "sub_int", ""},
    {ChainOp::mul, "*", "", "mul_int", ""},
    {ChainOp::div, "/", "", "div_int", "div_uint"},
    {ChainOp::rem, "", "rem_float", "rem_int", "rem_uint"},
    {ChainOp::max, "", "maximum", "max_int", "max_uint"},
    {ChainOp::min, "", "minimum", "min_int", "min_uint"},
    {ChainOp::abs, "", "fabs", "abs_int", ""},
    {ChainOp::sign, "", "sign_float", "sign_int", ""},
};

struct Named {
  ChainOp op;
  const char* function;
};
constexpr Named kFunctions[] = {
    {ChainOp::pow, "pow"},
    {ChainOp::atan2, "atan2"},
    {ChainOp::floor, "floor"},
    {ChainOp::ceil, "ceil"},
    {ChainOp::round_half_away, "round_away"},
    {ChainOp::round_half_even, "rint"},
    {ChainOp::exp, "exp"},
    {ChainOp::exp2, "exp2"},
    {ChainOp::log, "log"},
    {ChainOp::log1p, "log1p"},
    {ChainOp::expm1, "expm1"},
    {ChainOp::tanh, "precise::tanh"},
    {ChainOp::logistic, "logistic"},
    {ChainOp::sqrt, "sqrt"},
    {ChainOp::cbrt, "cbrt"},
    {ChainOp::sin, "sin"},
    {ChainOp::cos, "cos"},
    {ChainOp::tan, "tan"},
    {ChainOp::erf, "erf"},
    {ChainOp::erf_inv, "erf_inv"},
    {ChainOp::shift_left, "shift_left"},
};
constexpr Named kComparisons[] = {
    {ChainOp::eq, "=="}, {ChainOp::ne, "!="}, {ChainOp::lt, "<"},
    {ChainOp::le, "<="}, {ChainOp::gt, ">"},  {ChainOp::ge, ">="},
};
constexpr Named kLogic[] = {{ChainOp::and_, "&"}, {ChainOp::or_, "|"}, {ChainOp::xor_, "^"}};

}  // namespace

std::string register_type(ChainType type) {
  return type == ChainType::f32 ? "float" : type == ChainType::s32 ? "int" : "uint";
}

std::string element_type(Storage storage, ChainType type) {
  switch (storage) {
    case Storage::bf16:
      return "bfloat";
    case Storage::f16:
      return "half";
    case Storage::byte:
    case Storage::truth:
      return "uchar";
    default:
      return register_type(type);
  }
}

std::string literal(ChainType type, uint32_t bits) {
  std::string word = std::to_string(bits) + "u";
  if (type == ChainType::f32) return "as_type<float>(" + word + ")";
  return type == ChainType::s32 ? "int(" + word + ")" : word;
}

std::string as(const std::string& name, ChainType have, ChainType want) {
  if (register_type(have) == register_type(want)) return name;
  return "as_type<" + register_type(want) + ">(" + name + ")";
}

std::string expression(ChainOp op, ChainType on, const std::vector<std::string>& x) {
  bool real = on == ChainType::f32, integer = on == ChainType::s32;
  for (const Arithmetic& row : kArithmetic)
    if (row.op == op) {
      const char* function = real ? row.real : integer ? row.integer : row.natural;
      return *function ? call(function, x) : infix(row.sign, x);
    }
  for (const Named& row : kFunctions)
    if (row.op == op) {
      if (op == ChainOp::shift_left && integer)
        return "int(shift_left(uint(" + x[0] + "), uint(" + x[1] + ")))";
      return call(row.function, x);
    }
  for (const Named& row : kComparisons)
    if (row.op == op) return truth(row.function, x);
  for (const Named& row : kLogic)
    if (row.op == op) return infix(row.function, x);
  switch (op) {
    case ChainOp::neg:
      return integer ? call("neg_int", x) : "(-" + x[0] + ")";
    case ChainOp::square:
      return integer ? call("mul_int", {x[0], x[0]}) : infix("*", {x[0], x[0]});
    case ChainOp::rsqrt:
      return "(1.0f / sqrt(" + x[0] + "))";
    case ChainOp::is_finite:
      return "uint(fabs(" + x[0] + ") < INFINITY)";
    case ChainOp::not_:
      return on == ChainType::pred ? "(" + x[0] + " ^ 1u)" : "(~" + x[0] + ")";
    case ChainOp::shift_right_logical:
      return integer ? "int(shift_right(uint(" + x[0] + "), uint(" + x[1] + ")))"
                     : call("shift_right", x);
    case ChainOp::shift_right_arithmetic: {
      std::string y = "shift_right_arithmetic(int(" + x[0] + "), uint(" + x[1] + "))";
      return integer ? y : "uint(" + y + ")";
    }
    case ChainOp::select:
      return "(" + x[0] + " != 0u ? " + x[2] + " : " + x[1] + ")";  // no, yes
    case ChainOp::clamp: {
      std::string low = expression(ChainOp::max, on, {x[1], x[0]});
      return expression(ChainOp::min, on, {low, x[2]});
    }
    case ChainOp::convert_f32:
      return "float(" + x[0] + ")";
    case ChainOp::convert_s32:
      return real ? call("to_int", x) : "int(" + x[0] + ")";
    case ChainOp::convert_u32:
      return real ? call("to_uint", x) : "uint(" + x[0] + ")";
    case ChainOp::convert_pred:
      return "uint(" + x[0] + " != " + (real ? "0.0f" : integer ? "0" : "0u") + ")";
    case ChainOp::round_bf16:
      return "float(bfloat(" + x[0] + "))";
    case ChainOp::round_f16:
      return "float(half(" + x[0] + "))";
    default:
      throw ProgramError("an instruction has no expression");
  }
}

}  // namespace jax_mps::metal
