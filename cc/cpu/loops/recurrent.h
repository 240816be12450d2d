// What a recurrent cell does besides the products and steps of recurrent_steps.h.
#pragma once

#include "cpu/isa.h"
#include "ir/kinds.h"

namespace jax_mps::cpu {

// Gates of `rows` sequences and steps. They lie side by side in the columns of `gates`: sums in,
// neurons of them out; other arrays are [rows, hidden].
struct RecurrentGates {
  int64_t rows, hidden;
  int64_t width;  // columns of gates: a multiple of hidden
  float* gates;
  const float* h_before;
  const float *c_before, *c;  // cells of the LSTM
  float* reset;               // reset gate * h
  const float* extra;         // peepholes [3, hidden] of the LSTM, or null
};

struct RecurrentLoops {
  // [batch, time, size] to [steps, batch, size] for steps from `first`, and back.
  void (*gather)(const float* x, float* steps, int64_t batch, int64_t time, int64_t size,
                 int64_t first, int64_t count);
  void (*scatter)(const float* steps, float* x, int64_t batch, int64_t time, int64_t size,
                  int64_t first, int64_t count);
  // sum (+)= columns of [rows, width], rows of `stride`
  void (*column_sums)(const float* x, int64_t stride, float* sum, int64_t rows, int64_t width,
                      bool add);
  // rows x hidden numbers at `to`, rows of `stride`: the same vector in every row.
  void (*fill)(const float* vector, float* to, int64_t rows, int64_t hidden, int64_t stride);

  // The gates again from all of their sums, for a gradient that did not keep them.
  void (*lstm)(const RecurrentGates& gates);
  void (*gru_gates)(const RecurrentGates& gates);  // those before the candidate, and reset
  void (*candidate)(const RecurrentGates& gates);
  void (*gru_after)(const RecurrentGates& gates);  // z, r, m, n, where m = h r_n + bias is reset

  // Adds to [3, hidden]; `dgates` [rows, width], rows of `stride`.
  void (*peephole_gradient)(const RecurrentGates& gates, const float* dgates, int64_t stride,
                            float* gradient);
};
JAX_MPS_LOOPS(RecurrentLoops, recurrent_loops)

}  // namespace jax_mps::cpu
