// Loops that move elements: padding, concatenation, and the gather of a label of the last axis.
#pragma once

#include "cpu/isa.h"
#include "ir/kinds.h"

namespace jax_mps::cpu {

struct ShapeLoops {
  void (*copy)(const Box& box, int width, const void* x, void* y);  // of elements of width bytes
  void (*fill)(const void* value, int width, void* y, int64_t n);
  // y[r] = x[r, index[r]], or NaN out of range.
  void (*label_gather)(const float* x, const int32_t* index, float* y, int64_t rows,
                       int64_t classes);
  // dx = 0 but for dx[r, index[r]] = dy[r]
  void (*label_gather_gradient)(const float* dy, const int32_t* index, float* dx, int64_t rows,
                                int64_t classes);
};
JAX_MPS_LOOPS(ShapeLoops, shape_loops)

}  // namespace jax_mps::cpu
