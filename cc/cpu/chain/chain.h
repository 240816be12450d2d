// What of a chain's kernel others may take.
#pragma once

#include "cpu/loops/chain.h"
#include "kernel.h"

namespace jax_mps::cpu {

// The chain of a kernel that may run in one parallel region with others; nullptr if it is none, or
// reduces.
const Chain* chain_without_reductions(const Kernel& kernel);

}  // namespace jax_mps::cpu
