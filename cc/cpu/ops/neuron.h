// A neuron as an attribute: ["relu", a, b, c].
#pragma once

#include <string>

#include "cpu/loops/neuron.h"
#include "ir/program.h"

namespace jax_mps::cpu {

struct Neuron {
  NeuronKind kind;
  float a, b, c;

  explicit Neuron(const List& attribute);  // ProgramError on an unknown name
  bool is(NeuronKind other) const { return kind == other; }
  void apply(const float* x, float* y, int64_t n) const {
    neuron_loops().apply(kind, a, b, c, x, y, n);
  }
  void gradient(const float* dy, const float* x, float* dx, int64_t n) const {
    neuron_loops().gradient(kind, a, b, c, dy, x, dx, n);
  }
};

}  // namespace jax_mps::cpu
