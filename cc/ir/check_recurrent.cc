// lstm, gru, mgu and rnn over whole sequences, with <cell>_training and <cell>_gradient: what
// cpu/recurrent/plan.h says of their operands.
#include "check.h"
#include "cpu/ops/neuron.h"
#include "require.h"

namespace jax_mps {
namespace {

using Shape = std::vector<int64_t>;

enum class Kind : uint8_t { lstm, gru, mgu, rnn };
struct Cell {
  Kind kind;
  int64_t gates;
  size_t states, neurons;
  bool blends;  // attributes p and flip
};
constexpr Cell kLstm{Kind::lstm, 4, 2, 3, false}, kGru{Kind::gru, 3, 1, 2, true},
    kMgu{Kind::mgu, 2, 1, 2, true}, kRnn{Kind::rnn, 1, 1, 1, false};

// The shapes of a sequence.
struct Sizes {
  int64_t batch, time, hidden, width;  // width: of the gates that a step makes
  bool extra, recompute;
  Shape state() const { return {batch, hidden}; }
  Shape states() const { return {batch, time, hidden}; }
  Shape cells() const { return {time, batch, hidden}; }
  Shape gates() const { return {time, batch, width}; }
};

void attributes(const Node& node, const Cell& cell) {
  const Attributes& a = node.attributes;
  a.boolean("reverse");
  const List& neurons = a.list("neurons");
  require(neurons.size() == cell.neurons,
          "attribute 'neurons' must name the gates', the candidate's and the LSTM's output neuron");
  for (const Attribute& attribute : neurons) {
    const List* list = std::get_if<List>(&attribute);
    require(list, "attribute 'neurons' must be a list of [name, a, b, c]");
    cpu::Neuron check(*list);
  }
  if (!cell.blends) return;
  a.number("p");
  a.boolean("flip");
}

// The cell's operands, of which the node has `before` others before and `after` after.
Sizes operands(const Node& node, const Cell& cell, size_t before, size_t after) {
  attributes(node, cell);
  const Types& in = node.in;
  const size_t fixed = before + 5 + cell.states;
  const size_t given = in.size() - std::min(in.size(), after);
  require(given == fixed || given == fixed + 1, "takes " + std::to_string(fixed + after) +
                                                    " operands, or one more, but has " +
                                                    std::to_string(in.size()));
  const bool extra = given > fixed;
  const TensorType &x = in[before], &lengths = in[before + 1], &w = in[before + 2 + cell.states],
                   &r = in[before + 3 + cell.states], &b = in[before + 4 + cell.states];
  require(x.rank() == 3 && w.rank() == 2 && r.rank() == 2,
          "takes x [batch, time, inputs] and matrices w and r");
  const int64_t hidden = r.dim(0), columns = r.dim(1);
  require(columns == cell.gates * hidden,
          "r must be [hidden, " + std::to_string(cell.gates) + " hidden]");
  const bool after_reset = cell.kind == Kind::gru && node.attributes.string("reset") == "after";
  const int64_t width = after_reset ? columns + hidden : columns;
  Sizes sizes{x.dim(0), x.dim(1), hidden, width, extra, node.attributes.boolean("recompute")};
  require_shape(w, {x.dim(2), columns});
  require_shape(b, {columns});
  require_shape(lengths, {x.dim(0)});
  require(lengths.dtype == DType::s32, "lengths must be s32");
  for (size_t i = 0; i < cell.states; i++) require_shape(in[before + 2 + i], sizes.state());
  for (size_t i = before; i < given; i++)
    if (i != before + 1) require_floating(in[i]);
  require(extra || !after_reset, "takes a recurrent bias");
  if (!extra) return sizes;
  const Shape& shape = in[fixed].shape;
  const bool peepholes =
      cell.kind == Kind::lstm && (shape == Shape{3, hidden} || shape == Shape{3, hidden, hidden});
  const bool bias = after_reset && shape == Shape{hidden};
  const bool matrix = cell.kind == Kind::gru && !after_reset && shape == Shape{hidden, hidden};
  require(peepholes || bias || matrix,
          "the last operand must be peepholes, a recurrent bias or the update gate's matrix");
  return sizes;
}

void require_kept(const TensorType& type, const Shape& shape) {
  require_shape(type, shape);
  require_dtype(type, DType::f32);
}

template <const Cell& cell, bool training>
void forward(const Node& node) {
  const Sizes s = operands(node, cell, 0, 0);
  const bool cells = training && cell.states == 2, gates = training && !s.recompute;
  require_counts(node, node.in.size(), 1 + cell.states + cells + gates);
  const DType dtype = node.in[0].dtype;
  require_shape(node.out[0], s.states());
  for (size_t i = 0; i < cell.states; i++) require_shape(node.out[1 + i], s.state());
  for (size_t i = 0; i <= cell.states; i++) require_dtype(node.out[i], dtype);
  if (cells) require_kept(node.out[3], s.cells());
  if (gates) require_kept(node.out[1 + cell.states + cells], s.gates());
}

// (dy, dh (, dc), the cell's operands, y (, cells) (, gates)) -> the gradients of the operands but
// lengths, or of those that are wanted
template <const Cell& cell>
void gradient(const Node& node) {
  constexpr size_t before = 1 + cell.states;
  const size_t kept = cell.states + (node.attributes.boolean("recompute") ? 0 : 1);
  const Sizes s = operands(node, cell, before, kept);
  const size_t end = before + 5 + cell.states + s.extra;
  require_shape(node.in[0], s.states());
  for (size_t i = 1; i < before; i++) require_shape(node.in[i], s.state());
  require_shape(node.in[end], s.states());
  require_dtype(node.in[end], node.in[before].dtype);
  for (size_t i = 0; i < before; i++) require_floating(node.in[i]);
  if (cell.states == 2) require_kept(node.in[end + 1], s.cells());
  if (!s.recompute) require_kept(node.in[end + cell.states], s.gates());
  const std::vector<int> places = places_of_results(node, 4 + cell.states + s.extra);
  for (size_t i = 0; i < places.size(); i++) {
    if (places[i] < 0) continue;
    require_shape(node.out[places[i]], node.in[before + (i ? 1 : 0) + i].shape);
    require_dtype(node.out[places[i]], node.in[before].dtype);
  }
}

const Checker kLstmForward("lstm", forward<kLstm, false>);
const Checker kLstmTraining("lstm_training", forward<kLstm, true>);
const Checker kLstmGradient("lstm_gradient", gradient<kLstm>);
const Checker kGruForward("gru", forward<kGru, false>);
const Checker kGruTraining("gru_training", forward<kGru, true>);
const Checker kGruGradient("gru_gradient", gradient<kGru>);
const Checker kMguForward("mgu", forward<kMgu, false>);
const Checker kMguTraining("mgu_training", forward<kMgu, true>);
const Checker kMguGradient("mgu_gradient", gradient<kMgu>);
const Checker kRnnForward("rnn", forward<kRnn, false>);
const Checker kRnnTraining("rnn_training", forward<kRnn, true>);
const Checker kRnnGradient("rnn_gradient", gradient<kRnn>);

}  // namespace
}  // namespace jax_mps
