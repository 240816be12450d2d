// The weight gradient of windows of one pixel, whatever they stride over: a product of the pixels
// that the windows read and of dy.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

enum class PixelDType { f32, bf16, f16 };

// dw[c, g out + k] = sum over n, i, j of x[n, i stride - top, j stride - left, g in + c]
//                                        dy[n, i, j, g out + k], x being zero outside.
// All sums are float32.
struct PixelsPlan {
  PixelDType dtype;              // of x, dy and dw
  int64_t batch, height, width;  // of x
  int64_t rows, cols;            // of dy
  int64_t stride_rows, stride_cols, top, left;
  int64_t groups, in, out;    // channels of a group
  int64_t x_pixel, dy_pixel;  // numbers from a pixel to the next
  int threads;
};

struct PixelsLoops {
  void (*weight_gradient)(const PixelsPlan& plan, const void* x, const void* dy, void* dw,
                          float* scratch);
  int64_t (*scratch)(const PixelsPlan& plan);  // in floats
};
JAX_MPS_LOOPS(PixelsLoops, pixels_loops)

}  // namespace jax_mps::cpu
