#include "chain_msl.h"

namespace jax_mps::metal {
namespace {

// An instruction's expressions by the type of its operands: those that are not given are the last.
struct Expressions {
  ChainOp op;
  const char *f32, *s32, *u32, *pred;

  constexpr Expressions(ChainOp op, const char* all) : Expressions(op, all, all) {}
  constexpr Expressions(ChainOp op, const char* f32, const char* rest)
      : Expressions(op, f32, rest, rest) {}
  constexpr Expressions(ChainOp op, const char* f32, const char* s32, const char* rest)
      : Expressions(op, f32, s32, rest, rest) {}
  constexpr Expressions(ChainOp op, const char* f32, const char* s32, const char* u32,
                        const char* pred)
      : op(op), f32(f32), s32(s32), u32(u32), pred(pred) {}

  const char* on(ChainType type) const {
    return type == ChainType::f32   ? f32
           : type == ChainType::s32 ? s32
           : type == ChainType::u32 ? u32
                                    : pred;
  }
};
constexpr Expressions kInstructions[] = {
#define JAX_MPS_INSTRUCTION(name, text, operands, rule, loop, code, ...) \
  {ChainOp::name, __VA_ARGS__},
#include "chain/instructions.def"
#undef JAX_MPS_INSTRUCTION
};

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
  const size_t row = static_cast<size_t>(op);
  if (row >= std::size(kInstructions)) throw ProgramError("an instruction has no expression");
  std::string text;
  for (const char* c = kInstructions[row].on(on); *c; c++) {
    if (*c == '%')
      text += x[*++c - '0'];
    else
      text += *c;
  }
  return text;
}

}  // namespace jax_mps::metal
