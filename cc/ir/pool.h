// What the pools and their gradients say.
#pragma once

#include "windows.h"

namespace jax_mps {

struct PoolNode {
  TensorType x, y;  // the two sides of the pool, whichever the node computes
  Windows windows;
  bool count_padding;  // in the number that an average is over
  bool total;          // sums in place of averages

  int64_t window_elements() const;
};

// ProgramError with the rule that the shapes or the attributes break.
PoolNode pool_of(const Node& node);

}  // namespace jax_mps
