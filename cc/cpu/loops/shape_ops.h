// Loops that move elements: padding, concatenation, and picking one of the last axis.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

constexpr int kShapeRank = 12;

// A box of `size` is copied between two strided arrays; strides and offsets in elements of `width`
// bytes. The last axis is the innermost.
struct BoxCopy {
  int rank, width;
  int64_t size[kShapeRank], from[kShapeRank], to[kShapeRank];
  int64_t from_offset, to_offset;
};

struct ShapeLoops {
  void (*copy)(const BoxCopy& box, const void* x, void* y);
  void (*fill)(const void* value, int width, void* y, int64_t n);
  // y[r] = x[r, index[r]], or NaN out of range.
  void (*pick)(const float* x, const int32_t* index, float* y, int64_t rows, int64_t classes);
  // dx = 0 but for dx[r, index[r]] = dy[r]
  void (*pick_gradient)(const float* dy, const int32_t* index, float* dx, int64_t rows,
                        int64_t classes);
};
JAX_MPS_LOOPS(ShapeLoops, shape_loops)

}  // namespace jax_mps::cpu
