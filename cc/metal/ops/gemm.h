// The tiled product kernel, which convolutions and dense layers share.
#pragma once

#include "family.h"
#include "metal/kernels/gemm_parameters.h"

namespace jax_mps::metal {

// The tile of a threadgroup of four SIMD-groups.
struct Tile {
  int m, n, k;
};

// The tiles that take part in the contest, the one of general use first. Larger ones reuse more of
// what they read, smaller ones fill the GPU where the result is small.
constexpr Tile kTiles[] = {{64, 64, 16}, {32, 32, 16}, {64, 32, 16}, {32, 64, 32}};

struct Gemm {
  int mode = kGemmMatrix;
  GemmParameters p{};
  int batches = 1;         // products, or groups of a convolution
  bool splits = false;     // whether k may be cut; a neuron or a bias forbids it
  bool half_sums = false;  // sums in half rather than in float
  NeuronCall neuron;
  std::string dtype;  // storage of A, B and the bias
  DType result;

  Span a, b, c;
  std::optional<Span> bias;
};

// So much longer an operation takes whose operands no tile shares.
constexpr double kAlone = 8;

// Appends the dispatches of a product; p.m, p.n, p.k, the strides and p.conv are set.
void add_gemm(Recipe& recipe, Gemm gemm, Tile tile);

// y = the sum of `splits` arrays of `count` floats.
void add_splits(Recipe& recipe, int count, int splits, Span parts, Span y, DType dtype);

}  // namespace jax_mps::metal
