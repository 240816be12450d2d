// A chain as its node says it, checked and typed, once for all devices.
#pragma once

#include <vector>

#include "ir/program.h"
#include "types.h"

namespace jax_mps {

// A value is an operand, a constant, an index, or the result of an instruction. Instructions with a
// literal are already expanded, and bit casts are gone.
struct ChainValue {
  enum class Kind : uint8_t { operand, constant, iota, instruction };
  Kind kind;
  ChainType type;
  uint32_t bits = 0;  // of a constant
  int axis = 0;       // of an iota
  ChainOp op = ChainOp::copy;
  ChainType on = ChainType::f32;  // the type of the operands that choose the instruction
  int count = 0, from[3] = {};    // operands
};

struct ChainOperand {
  Storage storage;
  std::vector<int64_t> strides;
  int64_t offset;
};

struct ChainOutput {
  bool stores;
  Reduce reduce;
  int value;
  ChainType type;
  Storage storage;
  std::vector<bool> reduced;  // one an axis
  int64_t elements;
  int64_t cols, row;  // of a store: as ChainStore has them
};

struct ChainCode {
  std::vector<int64_t> shape;
  std::vector<ChainOperand> operands;
  std::vector<ChainValue> values;  // the operands, then the rest
  std::vector<ChainOutput> outputs;
};

// Throws ProgramError with the rule that the node breaks.
ChainCode parse_chain(const Node& node);

}  // namespace jax_mps
