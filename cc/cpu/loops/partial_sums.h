// Sums of arrays that parts of a kernel have summed.
#pragma once

#include "../isa.h"

namespace jax_mps::cpu {

struct PartialSumsLoops {
  // Elements [begin, end) of to = (to +) from[0] + from[1] + ...; `to` may be from[0].
  void (*add)(const float* const* from, int count, float* to, bool adds, int64_t begin,
              int64_t end);
};
JAX_MPS_LOOPS(PartialSumsLoops, partial_sums_loops)

}  // namespace jax_mps::cpu
