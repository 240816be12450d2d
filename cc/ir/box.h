// Ops that move boxes of elements: pad and concatenate.
#pragma once

#include <optional>

#include "kinds.h"
#include "program.h"

namespace jax_mps {

int64_t elements_of(const Box& box);

// The same copy over fewer axes: those of one step go, and neighbours that step as one merge.
Box merged(const Box& box);

// What of pad's operand is in the result, if any. The node has at most kBoxRank axes.
std::optional<Box> padded_box(const Node& node);

// Of each of concatenate's operands. Rows of the last axis may be pitched; ProgramError where they
// are and the axis is another.
std::vector<Box> concatenated_boxes(const Node& node);

}  // namespace jax_mps
