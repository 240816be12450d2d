// The CPU device: a table from op to its ordered implementations.
#pragma once

#include <initializer_list>
#include <string>

#include "kernel.h"

namespace jax_mps::cpu {

// Registers the implementations of an op, fastest first. One static object per op, in the file of
// its family:
//   const Register kConv("conv", {onednn_conv, direct_conv});
// Where `pitched_rows`, each of them takes or refuses operands and results of pitched rows; else
// none of them is asked to.
struct Register {
  Register(const char* op, std::initializer_list<Implementation> implementations,
           bool pitched_rows = false);
};

// Those that have implementations.
std::vector<std::string> ops();

// The first implementation that takes the node; half-precision nodes that none takes natively run
// through float32 copies. Without a kernel, the reason names every refusal.
Offer offer(const Node& node);

// "x86-64-v4, oneDNN 3.2.0, 2 threads"
std::string versions();

}  // namespace jax_mps::cpu
