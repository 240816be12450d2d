// What a recurrent node says: lstm, gru, mgu and rnn over whole sequences.
//
//   lstm(x, lengths, h0, c0, w, r, b, peephole?) and gru, mgu, rnn(x, lengths, h0, w, r, b,
//   extra?),
//     where extra is the recurrent bias or the update gate's matrix of a GRU
//   <cell>_training: the same operands; y and the last states, then cells (LSTM) and gates (unless
//     they are to be computed again)
//   <cell>_gradient: dy, dh (, dc), the operands, y (, cells, gates); the gradients of the operands
//     but lengths, or of those that are wanted
#pragma once

#include <vector>

#include "neuron.h"

namespace jax_mps {

struct RecurrentNode {
  RecurrentCell cell;
  size_t skip;  // operands before the cell's
  int64_t batch, time, inputs, hidden;
  int64_t columns;  // of w and r: gates of the cell times hidden
  int64_t width;    // of the gates that a step makes
  int64_t first;    // columns of r that the state meets; the reset state meets the others
  int states;       // 1 (h) or 2 (h, c)
  bool reverse, recompute;
  bool extra;           // whether there is a last operand of that name
  bool matrix = false;  // extra is one: peepholes [3, hidden, hidden], or the update gate's
  bool plain;           // sigmoid gates and tanh alone
  bool flip = false;    // of the blend of GRU and MGU, as p is
  float p = 1;
  std::vector<Neuron> neurons;  // of the gates (or the single one), the candidate, the output

  bool is_lstm() const { return cell == RecurrentCell::lstm; }
  bool resets_state() const { return cell == RecurrentCell::gru || cell == RecurrentCell::mgu; }
  size_t fixed() const { return 5 + states; }  // the cell's operands, without extra
};

// ProgramError with the rule that the operands or the attributes break.
RecurrentNode recurrent_of(const Node& node);

}  // namespace jax_mps
