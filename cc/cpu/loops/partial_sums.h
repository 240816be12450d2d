// Sums of arrays that parts of a kernel have summed.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

struct PartialSumsLoops {
  // n elements of to = (to +) from[0] + from[1] + ..., each from `first` on; `to` may be from[0]'s.
  void (*add)(const float* const* from, int count, int64_t first, float* to, bool adds, int64_t n);
};
JAX_MPS_LOOPS(PartialSumsLoops, partial_sums_loops)

}  // namespace jax_mps::cpu
