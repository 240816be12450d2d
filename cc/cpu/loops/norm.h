// Batch normalisation over the rows of a [rows, channels] array.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

constexpr int64_t kNormTile = 512;  // channels summed at a time

// How [rows, channels] is cut for sums over rows, on every machine alike: rows of few channels are
// read `fold` at a time as one wide row, so that vectors are full; tasks are pieces of `grain` rows
// times tiles of channels.
struct NormCut {
  int64_t rows, channels;
  int64_t fold, grain, pieces, tiles;

  constexpr NormCut(int64_t rows, int64_t channels) : rows(rows), channels(channels), fold(1) {
    while (fold * channels < kNormTile / 2) fold *= 2;
    int64_t least = 8192 / channels < 32 ? 32 : 8192 / channels;
    grain = (rows + 63) / 64 < least ? least : (rows + 63) / 64;
    grain = (grain + fold - 1) / fold * fold;
    pieces = (rows + grain - 1) / grain;
    tiles = (channels + kNormTile - 1) / kNormTile;
  }
  // Two sums a channel and piece.
  constexpr int64_t scratch_bytes() const { return 2 * pieces * channels * sizeof(double); }
};

// The neuron that is fused into the loops: h > 0 ? h : slope * h, with slope 1 for none.
struct NormArrays {
  const float *x, *mean, *variance, *gamma, *beta;
  float epsilon, slope;
};

struct NormLoops {
  // The mean and the population variance of each channel.
  void (*statistics)(const NormCut& cut, const float* x, float* mean, float* variance,
                     double* scratch);
  // y = f((x - mean) * scale + beta), scale = gamma / sqrt(variance + epsilon); `scale` is scratch
  // of [channels].
  void (*normalize)(const NormCut& cut, const NormArrays& a, float* y, float* scale);
  // With g = dy * f'((x - mean) * scale + beta): dgamma and dbeta and, unless dx is null, g *
  // scale.
  void (*sums)(const NormCut& cut, const NormArrays& a, const float* dy, float* dx, float* dgamma,
               float* dbeta, float* scale, double* scratch);
  // dx from these sums and the gradients of mean and variance; `coefficients` is scratch of
  // [3, channels].
  void (*data_gradient)(const NormCut& cut, const NormArrays& a, const float* dy,
                        const float* dmean, const float* dvariance, const float* dgamma,
                        const float* dbeta, float* dx, float* coefficients);
};
JAX_MPS_LOOPS(NormLoops, norm_loops)

}  // namespace jax_mps::cpu
