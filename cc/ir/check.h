// What a node must be for its op to mean something: counts, shapes, dtypes and attributes.
//
// A text is data: it travels in files and caches, and may contradict itself. So every node is
// checked once, before any device is asked for a kernel, and kernels trust what they read from it.
// What a kernel does not take though the op means it, such as a dtype, is its own reason to refuse.
#pragma once

#include "program.h"

namespace jax_mps {

// Registers the checker of an op, which throws ProgramError with the rule that a node breaks. One
// static object per op, in the file of its family:
//   const Checker kSoftmax("softmax", softmax);
// Arrays may be empty, and their rows may be pitched: devices refuse those.
struct Checker {
  Checker(const char* op, void (*check)(const Node& node));
};

// Every node of a program and of its loops' bodies: "line 2: softmax: ...". An op without a checker
// is refused.
void check(const Program& program);

// By name.
std::vector<std::string> checked_ops();

// The neuron of a node that may have one.
void check_neuron(const Node& node);

}  // namespace jax_mps
