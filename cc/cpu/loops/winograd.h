// Convolutions of stride 1 by Winograd's minimal filtering: tiles of the image and the filters are
// carried to where a convolution is 36 products of matrices, which take 2.8 (5x5 taps) to 4 (3x3)
// times fewer multiplications, or 46, which round off as little as plain sums (2.2 and 3.1 times).
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

constexpr int kWinogradTile = 6;                           // a tile of the image is 6x6
constexpr int kRealProducts = 36, kGaussianProducts = 46;  // by winograd_{tiles,gaussian}.h
constexpr int kWinogradChannels = 16;                      // channels come in whole vectors
constexpr int winograd_outputs(int taps) {
  return kWinogradTile + 1 - taps;
}  // a side of a tile of the result

// y[n, i, j, k] = sum over a, b, c of x[n, i + a - pad_top, j + b - pad_left, c] w[a, b, c, k], x
// being zero outside; for the weight gradient y is dy, given, and w is dw, sought.
struct WinogradPlan {
  int64_t batch, height, width, channels;  // of x
  int64_t rows, cols, filters;             // of y
  int taps;                                // 3 or 5, of both axes
  int64_t pad_top, pad_left;
  bool gaussian;  // kGaussianProducts, of a convolution only; else kRealProducts
  int threads;
  int64_t x_pixel = channels, y_pixel = filters;  // floats from a pixel to the next

  int64_t tile_rows() const { return (rows + winograd_outputs(taps) - 1) / winograd_outputs(taps); }
  int64_t tile_cols() const { return (cols + winograd_outputs(taps) - 1) / winograd_outputs(taps); }
  int products() const { return gaussian ? kGaussianProducts : kRealProducts; }
  int64_t tiles() const { return batch * tile_rows() * tile_cols(); }
};

// What follows the sums: + bias, and relu of a slope.
struct WinogradTail {
  const float* bias;  // or nullptr
  bool relu;
  float slope;
};

struct WinogradLoops {
  // y of x and w, or with `transposed` the data gradient: x is dy, y is dx and w is [taps, taps,
  // filters, channels], turned by half a circle.
  void (*conv)(const WinogradPlan& plan, const float* x, const float* w, bool transposed,
               const WinogradTail& tail, float* y, float* scratch);
  // dw [taps, taps, channels, filters]
  void (*weight_gradient)(const WinogradPlan& plan, const float* x, const float* dy, float* dw,
                          float* scratch);
  // Floats of scratch memory.
  int64_t (*conv_scratch)(const WinogradPlan& plan);
  int64_t (*weight_gradient_scratch)(const WinogradPlan& plan);
};
JAX_MPS_LOOPS(WinogradLoops, winograd_loops)

}  // namespace jax_mps::cpu
