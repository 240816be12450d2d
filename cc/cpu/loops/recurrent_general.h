// What a cell of any neurons does between the products of a step, for all rows of the batch.
//
// Its gates are kept as the sums that the neurons take: so any neuron's derivative can be had. A
// step has two phases, and between them the products with what the first one gives: the reset
// states, or the new cell that the LSTM's output gate sees through a matrix.
#pragma once

#include "recurrent_steps.h"

namespace jax_mps::cpu {

struct RecurrentGeneralLoops {
  int64_t (*floats)(const RecurrentShape& shape);  // of `memory`, which both phases share
  // Phase 0 takes the sums of all gates but a candidate that resets before its product, and gives
  // s.reset, s.update and the cell; phase 1 gives the state and y (unless s.y is null).
  void (*forward)(const RecurrentSteps& s, int64_t t, int phase, float* memory);
  // Phase 0 takes dh and dc without what phase 1 adds, phase 1 the gradients of s.reset and
  // s.update (or null). dgates of rows that have ended are 0.
  void (*backward)(const RecurrentSteps& s, int64_t t, int phase, const float* dreset,
                   const float* dupdate, float* memory);
};
JAX_MPS_LOOPS(RecurrentGeneralLoops, recurrent_general)

}  // namespace jax_mps::cpu
