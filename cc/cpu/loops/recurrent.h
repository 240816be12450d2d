// What one step of a recurrent cell does besides its matrix products.
#pragma once

#include "../isa.h"

namespace jax_mps::cpu {

// One step of `rows` sequences. Gates lie side by side in the columns of `gates`; arrays without a
// stride are [rows, hidden].
struct RecurrentStep {
  int64_t rows, hidden;
  int64_t width;  // columns of gates and dgates: a multiple of hidden
  float* gates;   // sums in, neurons of them out
  const float* h_before;
  float* h;          // the new state, in the place of the old one; null: only the gates are wanted
  float* y;          // where the new state goes too, or null
  int64_t y_stride;  // from row to row, of dy too
  const float* c_before;  // cells of the LSTM
  float* c;
  float* reset;  // reset gate * h, or an array of this size to work in
  const float*
      extra;  // peepholes [3, hidden] or the bias of the recurrent product [hidden], or null
  const int32_t* lengths;  // null: every row is alive
  int64_t t;
  float p;  // of the GRU's (1 - z^p)^(1/p)
  bool flip;
  // Backward only
  float* dgates;    // gradients of the sums
  const float* dy;  // null once it is added
  float* dh;      // in: from the step after; out: what reaches h_before by other ways than products
  float* dc;      // in: from the step after; out: for the step before
  float* dreset;  // gradient of reset
};

struct RecurrentLoops {
  // [batch, time, size] to [steps, batch, size] for steps from `first`, and back.
  void (*gather)(const float* x, float* steps, int64_t batch, int64_t time, int64_t size,
                 int64_t first, int64_t count);
  void (*scatter)(const float* steps, float* x, int64_t batch, int64_t time, int64_t size,
                  int64_t first, int64_t count);
  // sum (+)= columns of [rows, width]
  void (*column_sums)(const float* x, float* sum, int64_t rows, int64_t width, bool add);
  // rows x hidden numbers at `to`, rows of `stride`: the same vector in every row.
  void (*fill)(const float* vector, float* to, int64_t rows, int64_t hidden, int64_t stride);

  void (*lstm)(const RecurrentStep& step);
  void (*lstm_backward)(const RecurrentStep& step);
  void (*peephole_gradient)(const RecurrentStep& step, float* gradient);  // adds to [3, hidden]

  // Gates z, r, n (or z, n, where z resets: width 2): the gates before the candidate and reset,
  // then candidate and state.
  void (*gru_gates)(const RecurrentStep& step);
  void (*gru)(const RecurrentStep& step);
  void (*gru_backward)(const RecurrentStep& step);        // dgates of the candidate, partly of z
  void (*gru_gates_backward)(const RecurrentStep& step);  // the others, and reset itself
  // Gates z, r, m, n, where m = h r_n + bias is what the gate r resets.
  void (*gru_after)(const RecurrentStep& step);
  void (*gru_after_backward)(const RecurrentStep& step);

  // `reset` holds the neuron of the gate: it becomes the state.
  void (*rnn)(const RecurrentStep& step);
  // reset = the gradient of the new state, 0 in rows that have ended; dh = what passes those by.
  void (*rnn_backward)(const RecurrentStep& step);
};
JAX_MPS_LOOPS(RecurrentLoops, recurrent_loops)

}  // namespace jax_mps::cpu
