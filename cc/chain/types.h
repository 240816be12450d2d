// What chains are made of, for loops and devices alike. Data alone, as in ir/kinds.h.
#pragma once

#include <cstdint>

namespace jax_mps {

enum class ChainOp : uint8_t {
#define JAX_MPS_INSTRUCTION(name, ...) name,
#include "instructions.def"
#undef JAX_MPS_INSTRUCTION
  // What a plan adds; no program names them.
  copy,          // of a register
  splat,         // of a scalar
  multiply_add,  // a * b + c
  multiply_sub,  // a * b - c
  multiply_rsub  // c - a * b
};
enum class ChainType : uint8_t { f32, s32, u32, pred };
// Of an array's elements: uint8 is u32 in registers.
enum class Storage : uint8_t { word, bf16, f16, byte, truth };
enum class Reduce : uint8_t { sum, max, min, prod };

constexpr int kChainRank = 12;  // axes of a collapsed space

}  // namespace jax_mps
