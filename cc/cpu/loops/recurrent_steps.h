// All steps of a recurrent cell: the products with the state before and everything between them.
//
// A step is one pass over tiles of [rows, units]: the product with the panels of r, then at once
// what the cell does with these sums. Where the batch has rows enough for every thread, each goes
// through all steps of its part of the rows alone. Else they share the tiles of a step, meet once a
// step (twice where the reset gate stands before the product), and each keeps its share of r in its
// own cache. No number depends on which of the two it is.
#pragma once

#include "cpu/isa.h"
#include "neuron.h"
#include "recurrent.h"

namespace jax_mps::cpu {

struct RecurrentShape {
  RecurrentCell cell;
  int64_t batch, hidden;
  int64_t columns;        // of r
  int64_t width;          // of gates and dgates, a multiple of hidden
  int64_t dgates_stride;  // from row to row of dgates
  int parts;              // that the rows are cut into
  int64_t inputs;         // of x, if the forward products take it beside the state, else 0
};

struct NeuronCall {
  NeuronKind kind;
  float a, b, c;
};

// Some steps in the order of work. Gates lie side by side in the columns of `gates`.
struct RecurrentSteps {
  RecurrentShape shape;
  float* work;             // as many as `floats` says, kept between calls
  int64_t time;            // steps of the whole sequence
  bool reverse;            // the direction of the forward pass
  int64_t first, count;    // the time of the first of these steps, and their number
  int64_t low;             // the lowest time of these steps
  const float* extra;      // peepholes [3, hidden], or the bias of the recurrent product
  const int32_t* lengths;  // null: every row has all steps
  float p;                 // of the GRU's (1 - z^p)^(1/p)
  bool flip;
  NeuronCall neurons[3];   // of the gates (or the single one), the candidate, the LSTM's output
  const float *x, *w, *b;  // [batch, time, inputs], [inputs, columns], [columns], if shape.inputs
  float* gates;            // [count, batch, width] from `low` on, neurons out; in, unless
                           // shape.inputs, the inputs' share of the sums
  const float* c0;         // [batch, hidden]
  float* cells;            // [time, batch, hidden], or with cells_kept false one state
  bool cells_kept;
  // Forward
  float* h;  // [batch, hidden], the state: in and out
  float* y;  // [batch, time, hidden]
  // Backward
  const float* dy;        // [batch, time, hidden]
  const float* h_before;  // [count, batch, hidden] from `low` on
  float* reset;           // the same of reset gate * h_before, to write
  float* update;          // the same of the gate z * h_before if a matrix of its own takes it
  float* dgates;          // [count, batch, width] from `low` on, rows of dgates_stride
  float *dh, *dc;  // [batch, hidden], in: from the steps after; dh is without what products give
};

struct RecurrentForwardLoops {
  int64_t (*floats)(const RecurrentShape& shape);  // of work
  // Before the first steps: packs r and the first state.
  void (*begin)(const RecurrentSteps& steps, const float* r);
  void (*run)(const RecurrentSteps& steps);
};
JAX_MPS_LOOPS(RecurrentForwardLoops, recurrent_forward)

struct RecurrentBackwardLoops {
  int64_t (*floats)(const RecurrentShape& shape);  // of work
  // Before the first steps: packs r.
  void (*begin)(const RecurrentSteps& steps, const float* r);
  void (*run)(const RecurrentSteps& steps, bool is_first);
  // After the last: adds to dh what the products of that step give.
  void (*end)(const RecurrentSteps& steps);
};
JAX_MPS_LOOPS(RecurrentBackwardLoops, recurrent_backward)

}  // namespace jax_mps::cpu
