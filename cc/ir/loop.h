// loop(consts, carry, xs) -> (carry, ys) {carry, consts, in_place, length, reverse}: lax.scan of
// the node's body, (consts, carry, slices of xs) -> (carry, slices of ys).
//
// A slice of an array along its first axis is a place in it: nothing is copied in or out. A carry
// that the body writes where it reads it lies in its result from the first iteration on; any other
// lies by turns in its result and in scratch memory, such that the last iteration writes the
// result.
#pragma once

#include "program.h"

namespace jax_mps {

// What a loop's node says.
struct LoopShape {
  struct Carry {
    size_t bytes;
    bool in_place;
  };

  // ProgramError where the node and its body disagree.
  explicit LoopShape(const Node& node);

  size_t first_carry() const { return consts; }  // among the operands
  size_t first_slice() const { return consts + carry.size(); }
  int64_t slice_of(int64_t iteration) const { return reverse ? length - 1 - iteration : iteration; }
  // Whether an iteration leaves a carry in its second place.
  bool is_second(size_t i, int64_t iteration) const {
    return !carry[i].in_place && (length - 1 - iteration) % 2 == 1;
  }

  size_t consts = 0;
  std::vector<Carry> carry;
  std::vector<size_t> xs_bytes, ys_bytes;  // of a slice
  int64_t length = 0;
  bool reverse = false;
};

}  // namespace jax_mps
