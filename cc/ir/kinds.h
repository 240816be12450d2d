// Kinds and plain shapes that a node names and that loops, too, are told of. Data alone: loops are
// compiled once per instruction set, and a function of this file could be linked from one set into
// another.
#pragma once

#include <cstdint>

namespace jax_mps {

enum class NeuronKind {
  none,
  relu,
  linear,
  sigmoid,
  hard_sigmoid,
  tanh,
  absolute,
  softplus,
  softsign,
  elu,
  relun,
  power,
  exponential,
  logarithm,
  gelu,
};

enum class Cumulative : uint8_t { sum, prod, max, min };

// Arrays [before, n, after]; the last first if `reverse`.
struct CumulativeShape {
  int64_t before, n, after;
  bool reverse;
};

enum class RecurrentCell { lstm, gru, gru_after, mgu, rnn };  // gru_after: reset after the product

}  // namespace jax_mps
