// A mode for tests: with JAX_MPS_GUARD=1 in the environment, kernels and the oneDNN primitives
// inside them run on copies of their arrays between canaries, and a broken canary is an error that
// names who wrote there. With JAX_MPS_GUARD=2 pages that nobody may touch take the canaries' place:
// the process ends at the very instruction, for a debugger.
#pragma once

#include <memory>

#include "kernel.h"
#include "onednn.h"

namespace jax_mps::cpu {

// The kernel, within canaries where the environment asks for them.
std::unique_ptr<Kernel> guarded(const Node& node, std::unique_ptr<Kernel> kernel);

#ifdef JAX_MPS_ONEDNN
// Runs a primitive: the one place from which oneDNN touches memory. Throws std::runtime_error
// with `name` where it wrote outside of its arguments.
void execute(const dnnl::primitive& primitive,
             const std::unordered_map<int, dnnl::memory>& arguments, const std::string& name);
#endif

}  // namespace jax_mps::cpu
