// What chain.cc takes from chain_code.cc, per instruction set.
#pragma once

#include "chain.h"

namespace jax_mps::cpu::JAX_MPS_ISA {

ChainFn find_instruction(ChainOp op, ChainType type, unsigned scalars);

}  // namespace jax_mps::cpu::JAX_MPS_ISA
