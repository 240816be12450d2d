// Apple's own kernels: products of matrices by MPSMatrixMultiplication, 2-D convolutions and their
// gradients by MPSGraph. They compete with ours where the device tunes; a machine without them
// offers nothing.
#pragma once

#include "metal/ops/gemm.h"

namespace jax_mps::metal {

// JAX_MPS_APPLE_KERNELS: 0 offers none, 1 takes them wherever they are offered, without a contest.
enum class AppleKernels { none, compete, always };
AppleKernels apple_kernels();

// Why a node gets no kernel of this class of Apple's: it is missing, or the user wants none.
std::string without_apple_kernels(const char* cls);

// Sets the recipe to a product by Apple's kernel, then one of ours for bias and neuron; or gives
// the reason why Apple's does not take it.
std::string add_apple_product(Recipe& recipe, const Gemm& gemm, DType dtype);

enum class AppleConvolution { forward, data_gradient, weight_gradient };
struct AppleConvolutionCall {
  AppleConvolution which;
  ConvParameters g;
  int batch, groups;
  DType dtype;
  Span first, second, result;  // x, w, y; or dy, w, dx; or dy, x, dw
  std::optional<Span> bias;
  NeuronCall neuron;
};
std::string add_apple_convolution(Recipe& recipe, const AppleConvolutionCall& call);

// y = neuron(y + bias), with the bias along the last axis.
void add_tail(Recipe& recipe, Span y, int channels, std::optional<Span> bias,
              const NeuronCall& neuron, DType dtype);

// Of recipes that stand last: Apple's, and after them the simplest kernel.
constexpr double kAppleCost = 1e299, kSimplestCost = 1e300;

}  // namespace jax_mps::metal
