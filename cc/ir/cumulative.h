// What a node cumulative(x) {axis, kind, reverse} says.
#pragma once

#include "kinds.h"
#include "program.h"

namespace jax_mps {

struct CumulativeNode {
  Cumulative kind;
  CumulativeShape shape;

  // ProgramError with the rule that the node breaks.
  explicit CumulativeNode(const Node& node);
};

}  // namespace jax_mps
