// One launch of a recurrent cell: a product with the recurrent weights, and what the cell makes of
// it, for some rows of [time, batch].
#pragma once

#include "neuron_parameters.h"

struct RecurrentParameters {
  int rows;                 // of this launch
  int batch, time, hidden;  // of the sequences
  int width;                // columns of the gates
  int columns;              // of the weights
  int step, gate_row;       // of the first row: its time, and its row of the gates
  int first_step,
      before;  // the step that starts from the given state; from a step to the one before
  int kept;    // whether there are cells of every step, or only the latest
  // The product: depth numbers of a row of `a`, from a column on and with a gap, times a part of r.
  int depth, a_row, a_width, a_column, gap_from, gap, r_column;
  int flip;
  float p;
  NeuronParameters neurons[3];  // of the gates (or the single one), the candidate, the output
};
static_assert(sizeof(RecurrentParameters) == 128, "one layout on host and device");

// Copies between storage and float, and of the states that steps begin with.
struct StatesParameters {
  int count, batch, time, hidden, first_step, before;
};
static_assert(sizeof(StatesParameters) == 24, "one layout on host and device");

struct PeepholeParameters {
  int rows, batch, hidden, width, parts;
  int first_step, before;
};
static_assert(sizeof(PeepholeParameters) == 28, "one layout on host and device");
