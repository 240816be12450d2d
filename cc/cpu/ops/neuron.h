// A neuron over an array.
#pragma once

#include "cpu/loops/neuron.h"
#include "ir/neuron.h"

namespace jax_mps::cpu {

// y = f(x); x may be y.
inline void apply(const Neuron& f, const float* x, float* y, int64_t n) {
  neuron_loops().apply(f.kind, f.a, f.b, f.c, x, y, n);
}
// dx = dy * f'(x)
inline void apply_gradient(const Neuron& f, const float* dy, const float* x, float* dx, int64_t n) {
  neuron_loops().gradient(f.kind, f.a, f.b, f.c, dy, x, dx, n);
}

}  // namespace jax_mps::cpu
