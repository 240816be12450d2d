// The recurrent engine: what the forward and the backward pass over a sequence share. What the
// nodes are stands in ir/recurrent.h.
//
// The inputs' share of the gates is one product over all steps, and so are the weights' gradients;
// each step between is one launch (two where a reset state or the new cell meets weights), which
// holds its products with the recurrent weights and the cell's own arithmetic. States, cells and
// gates are float whatever the storage of the operands.
#pragma once

#include "gemm.h"
#include "ir/recurrent.h"
#include "metal/kernels/recurrent_parameters.h"

namespace jax_mps::metal::recurrent {

using Cell = RecurrentCell;

// What a node says, in numbers of 32 bits, as the kernels take them.
struct Plan {
  Cell cell;
  DType dtype;
  int skip;  // operands before the cell's
  int batch, time, inputs, hidden;
  int columns;  // of w and r: gates of the cell times hidden
  int width;    // of the gates that a step makes
  int first;    // columns of r that the state meets; the reset state meets the others
  int states;   // 1 (h) or 2 (h, c)
  bool reverse, recompute, extra, flip;
  bool matrix;  // extra is one: peepholes [3, hidden, hidden], or the update gate's
  float p;
  int kinds;                    // of the neurons, four bits each; 0: sigmoid gates and tanh
  NeuronParameters neurons[3];  // of the gates (or the single one), the candidate, the output

  bool is_lstm() const { return cell == Cell::lstm; }
  bool resets_state() const { return cell == Cell::gru || cell == Cell::mgu; }
  int64_t state() const { return int64_t{batch} * hidden; }
  int64_t rows() const { return int64_t{batch} * time; }
  bool is_peeping() const { return is_lstm() && matrix; }
  int time_of(int i) const { return reverse ? time - 1 - i : i; }  // of the i-th step
};

// The plan of a node, or the reason why not.
struct PlanOrReason {
  std::optional<Plan> plan;
  std::string reason;
};
PlanOrReason plan_of(const Node& node);

// What a launch of a cell's steps works on. An LSTM's `before` and `cells` are all cells it knows
// and all it writes, or, where peepholes are matrices, those that its rows begin and end with;
// `made` are the latter before rows that have ended keep theirs.
struct Steps {
  Span h, gates, before, made, cells, after, y, reset, update;
  bool gates_only = false;  // h, and the cells, are known already
};

// Appends launches to the recipe of a node.
class Sequence {
 public:
  Sequence(Recipe& recipe, const Plan& plan);

  Span x, lengths, h0, c0, w, r, b, extra;  // the operands; what a cell lacks is b

  Span floats(int64_t count) { return recipe_.scratch(sizeof(float) * count); }
  // The array in float, itself if it is that already.
  Span widened(Span from, int64_t count);
  void widen(Span from, Span to, int64_t count);
  void narrow(Span from, Span to, int64_t count);

  // One launch of a cell's kernel over `rows`, of which the first is that of step `t`.
  RecurrentParameters step(int t, int64_t rows) const;
  Dispatch& launch(const char* file, const char* function, const RecurrentParameters& p,
                   bool gates_only = false);

  // The launches of a cell's steps.
  void add_steps(RecurrentParameters p, const Steps& at);

  // gates = the inputs' share of `steps` steps from `low` on, without biases.
  void project(int low, int steps, Span gates);
  // A product of float arrays; `transpose_b` if b is [n, k].
  Gemm product(int m, int n, int k, Span a, Span b, Span c, DType result) const;
  void add(Gemm gemm);

 private:
  void convert(const char* function, Span from, Span to, int64_t count);

  Recipe& recipe_;
  const Plan& plan_;
};

}  // namespace jax_mps::metal::recurrent
