// Cumulative sums, products and extrema along an axis.
#pragma once

#include "cpu/isa.h"
#include "ir/kinds.h"

namespace jax_mps::cpu {

// y[:, i] is what x[:, 0] to x[:, i] make. x may be y.
using CumulativeFn = void (*)(const CumulativeShape& shape, const void* x, void* y);

struct CumulativeLoops {
  CumulativeFn f32[4], s32[4], u32[4];  // by Cumulative
};
JAX_MPS_LOOPS(CumulativeLoops, cumulative_loops)

}  // namespace jax_mps::cpu
