// Convolutions by plain sums, in short runs that are summed by themselves: what the highest
// precision asks for.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

// y[n, i, j, k] = sum over a, b, c of x[n, i stride + a dilation - pad, (alike), c] w[a, b, c, k],
// x being zero outside. Of two spatial axes each.
struct ShortSumsPlan {
  int64_t batch, size[2], channels;  // of x
  int64_t out[2], filters;           // of y
  int64_t taps[2], strides[2], dilation[2], pad[2];
  int64_t x_pixel, y_pixel;  // floats from a pixel to the next
};

struct ShortSumsLoops {
  // `bias` [filters] may be nullptr. filters is a multiple of 16.
  void (*conv)(const ShortSumsPlan& plan, const float* x, const float* w, const float* bias,
               float* y);
  // [taps, filters, channels] turned by half a circle -> [taps, channels, filters].
  void (*turn)(const float* w, float* turned, int64_t taps, int64_t channels, int64_t filters);
};
JAX_MPS_LOOPS(ShortSumsLoops, short_sums_loops)

}  // namespace jax_mps::cpu
