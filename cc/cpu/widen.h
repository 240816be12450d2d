// Half-precision nodes run by float32 kernels, through converted copies in the scratch memory.
#pragma once

#include <memory>

#include "kernel.h"

namespace jax_mps::cpu {

Node widened(const Node& node);  // the same node with float32 in place of float16 and bfloat16
std::unique_ptr<Kernel> widen(const Node& node, std::unique_ptr<Kernel> wide);

}  // namespace jax_mps::cpu
