// What chain.cc takes from chain_reduce.cc, per instruction set.
#pragma once

#include "chain.h"

namespace jax_mps::cpu::JAX_MPS_ISA {

ReduceFns find_reduction(Reduce reduce, ChainType type);

}  // namespace jax_mps::cpu::JAX_MPS_ISA
