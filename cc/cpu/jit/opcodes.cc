#include "opcodes.h"

#include "formulas.h"

namespace jax_mps::cpu {

std::optional<Opcode> arithmetic(const ChainStep& step) {
  bool real = is_float(step);
  switch (step.op) {
    case ChainOp::add:
      return real ? opcodes::add : opcodes::add_s32;
    case ChainOp::sub:
      return real ? opcodes::sub : opcodes::sub_s32;
    case ChainOp::mul:
      return real ? opcodes::mul : opcodes::mul_s32;
    case ChainOp::div:
      if (real) return opcodes::div;
      return std::nullopt;
    case ChainOp::and_:
      return opcodes::bit_and;
    case ChainOp::or_:
      return opcodes::bit_or;
    case ChainOp::xor_:
      return opcodes::bit_xor;
    case ChainOp::shift_left:
      return opcodes::shift_left;
    case ChainOp::shift_right_logical:
      return opcodes::shift_right_logical;
    case ChainOp::shift_right_arithmetic:
      return opcodes::shift_right_arithmetic;
    default:
      return std::nullopt;
  }
}

std::optional<std::pair<uint8_t, Compare>> comparison(ChainOp op) {
  switch (op) {
    case ChainOp::eq:
      return std::pair{uint8_t{0x00}, Compare::eq};
    case ChainOp::ne:
      return std::pair{uint8_t{0x04}, Compare::ne};
    case ChainOp::lt:
      return std::pair{uint8_t{0x11}, Compare::lt};
    case ChainOp::le:
      return std::pair{uint8_t{0x12}, Compare::le};
    case ChainOp::gt:
      return std::pair{uint8_t{0x1e}, Compare::gt};
    case ChainOp::ge:
      return std::pair{uint8_t{0x1d}, Compare::ge};
    default:
      return std::nullopt;
  }
}

bool gives_mask(const ChainStep& step) {
  return comparison(step.op) || step.op == ChainOp::is_finite ||
         (step.on == ChainType::pred && step.op != ChainOp::select &&
          step.op != ChainOp::convert_f32 && step.op != ChainOp::convert_s32 &&
          step.op != ChainOp::convert_u32);
}

bool has_machine_code(const ChainStep& step) {
  bool real = is_float(step), boolean = step.on == ChainType::pred;
  switch (step.op) {
    case ChainOp::select:
      return !boolean;
    case ChainOp::max:
    case ChainOp::min:
    case ChainOp::clamp:
    case ChainOp::square:
      return !boolean;
    case ChainOp::neg:
    case ChainOp::abs:
      return real || step.on == ChainType::s32;
    case ChainOp::sqrt:
    case ChainOp::rsqrt:
    case ChainOp::floor:
    case ChainOp::ceil:
    case ChainOp::round_half_even:
    case ChainOp::multiply_add:
    case ChainOp::multiply_sub:
    case ChainOp::multiply_rsub:
    case ChainOp::is_finite:
      return real;
    case ChainOp::copy:
    case ChainOp::splat:
    case ChainOp::convert_f32:
    case ChainOp::not_:
      return true;
    case ChainOp::convert_s32:
    case ChainOp::convert_u32:
      return !real;
    default:
      break;
  }
  if (has_formula(step.op)) return real;
  if (comparison(step.op)) return !boolean;
  if (boolean)
    return step.op == ChainOp::and_ || step.op == ChainOp::or_ || step.op == ChainOp::xor_;
  return arithmetic(step).has_value();
}

}  // namespace jax_mps::cpu
