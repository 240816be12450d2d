// Sums over rows.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

struct ReduceLoops {
  // y[c] = sum over rows of x[r, c]; partial holds pieces_of(rows) * channels floats.
  void (*column_sum)(const float* x, float* y, float* partial, int64_t rows, int64_t channels);
};
JAX_MPS_LOOPS(ReduceLoops, reduce_loops)

}  // namespace jax_mps::cpu
