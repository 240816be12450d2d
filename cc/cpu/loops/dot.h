// Small matrix products, on one thread.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

struct DotPlan {
  int64_t batch, m, k, n;
  int64_t left[3], right[3];  // strides of [batch, m, k] and of [batch, k, n]
};

struct DotLoops {
  // y is [batch, m, n], row-major.
  void (*product)(const DotPlan& plan, const float* left, const float* right, float* y);
};
JAX_MPS_LOOPS(DotLoops, dot_loops)

}  // namespace jax_mps::cpu
