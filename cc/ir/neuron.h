// A neuron as an attribute: ["relu", a, b, c].
#pragma once

#include <optional>

#include "kinds.h"
#include "program.h"

namespace jax_mps {

struct Neuron {
  NeuronKind kind;
  float a, b, c;

  explicit Neuron(const List& attribute);  // ProgramError on an unknown name
  bool is(NeuronKind other) const { return kind == other; }
};

// The neuron of a node that may have one.
std::optional<Neuron> neuron_of(const Node& node);

// Whether it is of this kind and has no parameters but the ones that a cell's own neuron has.
bool is_plain(const Neuron& neuron, NeuronKind kind);

}  // namespace jax_mps
