// Elementwise activations and their gradients.
#pragma once

#include "cpu/isa.h"
#include "ir/kinds.h"

namespace jax_mps::cpu {

struct NeuronLoops {
  // y = f(x); x and y may be the same array.
  void (*apply)(NeuronKind kind, float a, float b, float c, const float* x, float* y, int64_t n);
  // dx = dy * f'(x)
  void (*gradient)(NeuronKind kind, float a, float b, float c, const float* dy, const float* x,
                   float* dx, int64_t n);
  // One slope a channel: y = x >= 0 ? x : slope * x over [rows, channels].
  void (*prelu)(const float* x, const float* slope, float* y, int64_t rows, int64_t channels);
  // dx = dy * (x > 0 ? 1 : slope); partial sums of dy * min(x, 0) over `prelu_pieces(rows)` pieces
  // of rows.
  void (*prelu_gradient)(const float* dy, const float* x, const float* slope, float* dx,
                         float* dslope, float* partial, int64_t rows, int64_t channels);
};
JAX_MPS_LOOPS(NeuronLoops, neuron_loops)

}  // namespace jax_mps::cpu
