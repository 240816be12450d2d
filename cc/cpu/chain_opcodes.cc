#include "chain_opcodes.h"

namespace jax_mps::cpu {

std::optional<Evex> arithmetic(const ChainStep& step) {
  bool real = is_float(step);
  switch (step.op) {
    case ChainOp::add:
      return real ? Evex{1, 0, 0x58} : Evex{1, 1, 0xfe};
    case ChainOp::sub:
      return real ? Evex{1, 0, 0x5c} : Evex{1, 1, 0xfa};
    case ChainOp::mul:
      return real ? Evex{1, 0, 0x59} : Evex{2, 1, 0x40};
    case ChainOp::div:
      if (real) return Evex{1, 0, 0x5e};
      return std::nullopt;
    case ChainOp::and_:
      return Evex{1, 1, 0xdb};
    case ChainOp::or_:
      return Evex{1, 1, 0xeb};
    case ChainOp::xor_:
      return Evex{1, 1, 0xef};
    case ChainOp::shift_left:
      return Evex{2, 1, 0x47};
    case ChainOp::shift_right_logical:
      return Evex{2, 1, 0x45};
    case ChainOp::shift_right_arithmetic:
      return Evex{2, 1, 0x46};
    default:
      return std::nullopt;
  }
}

std::optional<std::pair<uint8_t, uint8_t>> comparison(ChainOp op) {
  switch (op) {
    case ChainOp::eq:
      return std::pair<uint8_t, uint8_t>{0x00, 0};
    case ChainOp::ne:
      return std::pair<uint8_t, uint8_t>{0x04, 4};
    case ChainOp::lt:
      return std::pair<uint8_t, uint8_t>{0x11, 1};
    case ChainOp::le:
      return std::pair<uint8_t, uint8_t>{0x12, 2};
    case ChainOp::gt:
      return std::pair<uint8_t, uint8_t>{0x1e, 6};
    case ChainOp::ge:
      return std::pair<uint8_t, uint8_t>{0x1d, 5};
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
    case ChainOp::neg:
    case ChainOp::abs:
    case ChainOp::square:
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
  if (comparison(step.op)) return !boolean;
  if (boolean)
    return step.op == ChainOp::and_ || step.op == ChainOp::or_ || step.op == ChainOp::xor_;
  return arithmetic(step).has_value();
}

}  // namespace jax_mps::cpu
