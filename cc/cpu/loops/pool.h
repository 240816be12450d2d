// Pooling over windows of [batch, height, width, channels], forward and backward.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

// What one output sees along one axis: taps [first, last), the first of them at input `start`.
struct PoolSpan {
  int32_t first, last, start;
  float count;  // what the axis contributes to an average's divisor
};

// One window over an input along one axis: output `out` sees it with tap `tap`.
struct PoolHit {
  int32_t out, tap;
  float share;  // what divides PoolShape's area to give that divisor
};

struct PoolAxis {
  int64_t in, out, window, dilation;
  const PoolSpan* spans;    // [out]
  const PoolHit* hits;      // of all inputs, one after the other, in the order of the outputs
  const int32_t* hits_end;  // [in + 1]: input i has hits [hits_end[i], hits_end[i + 1])
};

struct PoolShape {
  int64_t batch, channels;
  PoolAxis y, x;
  float area, share;  // the largest divisor of an average, 1 for totals, and what it divides 1 to
};

// Taps are numbered row-major and kept as T: uint8_t, or int32_t for windows of more than 256.
struct PoolLoops {
  void (*max)(const PoolShape& shape, const float* x, float* y);
  void (*max_taps_u8)(const PoolShape& shape, const float* x, float* y, uint8_t* taps);
  void (*max_taps_s32)(const PoolShape& shape, const float* x, float* y, int32_t* taps);
  void (*pick_u8)(const PoolShape& shape, const float* x, const uint8_t* taps, float* y);
  void (*pick_s32)(const PoolShape& shape, const float* x, const int32_t* taps, float* y);
  void (*average)(const PoolShape& shape, const float* x, float* y);
  void (*l2)(const PoolShape& shape, const float* x, float* y);
  void (*max_gradient_u8)(const PoolShape& shape, const float* dy, const uint8_t* taps, float* dx);
  void (*max_gradient_s32)(const PoolShape& shape, const float* dy, const int32_t* taps, float* dx);
  void (*average_gradient)(const PoolShape& shape, const float* dy, float* dx);
  void (*l2_gradient)(const PoolShape& shape, const float* dy, const float* x, const float* y,
                      float* dx);
};
JAX_MPS_LOOPS(PoolLoops, pool_loops)

}  // namespace jax_mps::cpu
