#include "recurrent.h"

#include <algorithm>

#include "require.h"

namespace jax_mps {
namespace {

struct Cell {
  std::string_view op;
  RecurrentCell cell;
  int64_t gates;
  int states;
  size_t neurons;
  bool blends;  // attributes p and flip
};
constexpr Cell kCells[] = {{"lstm", RecurrentCell::lstm, 4, 2, 3, false},
                           {"gru", RecurrentCell::gru, 3, 1, 2, true},
                           {"mgu", RecurrentCell::mgu, 2, 1, 2, true},
                           {"rnn", RecurrentCell::rnn, 1, 1, 1, false}};

const Cell& cell_of(const Node& node) {
  auto found = std::ranges::find(kCells, node.op.substr(0, node.op.find('_')), &Cell::op);
  require(found != std::end(kCells), "is no recurrent cell");
  return *found;
}

void read_attributes(const Node& node, const Cell& cell, RecurrentNode& r) {
  const Attributes& a = node.attributes;
  r.reverse = a.boolean("reverse");
  const List& neurons = a.list("neurons");
  require(neurons.size() == cell.neurons,
          "attribute 'neurons' must name the gates', the candidate's and the LSTM's output neuron");
  for (const Attribute& attribute : neurons) {
    const List* list = std::get_if<List>(&attribute);
    require(list, "attribute 'neurons' must be a list of [name, a, b, c]");
    r.neurons.emplace_back(*list);
  }
  r.plain = cell.cell != RecurrentCell::rnn;
  for (size_t i = 0; i < r.neurons.size(); i++)
    if (!is_plain(r.neurons[i], i == 0 ? NeuronKind::sigmoid : NeuronKind::tanh)) r.plain = false;
  if (!cell.blends) return;
  r.p = static_cast<float>(a.number("p"));
  r.flip = a.boolean("flip");
}

}  // namespace

RecurrentNode recurrent_of(const Node& node) {
  using Shape = std::vector<int64_t>;
  const Cell& cell = cell_of(node);
  const bool backward = node.op.ends_with("_gradient");
  RecurrentNode s{};
  s.cell = cell.cell, s.states = cell.states;
  s.p = 1;
  s.skip = backward ? 1 + cell.states : 0;
  // A gradient's operands end with y and what training kept.
  const bool recompute = backward && node.attributes.boolean("recompute");
  const size_t after = backward ? cell.states + (recompute ? 0 : 1) : 0;
  read_attributes(node, cell, s);
  const Types& in = node.in;
  const size_t fixed = s.skip + s.fixed(), given = in.size() - std::min(in.size(), after);
  require(given == fixed || given == fixed + 1, "takes " + std::to_string(fixed + after) +
                                                    " operands, or one more, but has " +
                                                    std::to_string(in.size()));
  s.extra = given > fixed;
  const size_t states = cell.states;
  const TensorType &x = in[s.skip], &lengths = in[s.skip + 1], &w = in[s.skip + 2 + states],
                   &r = in[s.skip + 3 + states], &b = in[s.skip + 4 + states];
  require(x.rank() == 3 && w.rank() == 2 && r.rank() == 2,
          "takes x [batch, time, inputs] and matrices w and r");
  const int64_t hidden = r.dim(0), columns = r.dim(1);
  require(columns == cell.gates * hidden,
          "r must be [hidden, " + std::to_string(cell.gates) + " hidden]");
  const bool after_reset =
      cell.cell == RecurrentCell::gru && node.attributes.string("reset") == "after";
  if (after_reset) s.cell = RecurrentCell::gru_after;
  s.batch = x.dim(0), s.time = x.dim(1), s.inputs = x.dim(2);
  s.hidden = hidden, s.columns = columns;
  s.width = after_reset ? columns + hidden : columns;
  s.first = columns - (s.resets_state() ? hidden : 0);
  s.recompute = node.attributes.boolean("recompute");
  require_shape(w, {s.inputs, columns});
  require_shape(b, {columns});
  require_shape(lengths, {s.batch});
  require(lengths.dtype == DType::s32, "lengths must be s32");
  for (size_t i = 0; i < states; i++) require_shape(in[s.skip + 2 + i], {s.batch, hidden});
  for (size_t i = s.skip; i < given; i++)
    if (i != s.skip + 1) require_floating(in[i]);
  require(s.extra || !after_reset, "takes a recurrent bias");
  if (!s.extra) return s;
  const Shape& shape = in[fixed].shape;
  const bool peepholes =
      s.is_lstm() && (shape == Shape{3, hidden} || shape == Shape{3, hidden, hidden});
  const bool bias = after_reset && shape == Shape{hidden};
  const bool update = s.cell == RecurrentCell::gru && shape == Shape{hidden, hidden};
  require(peepholes || bias || update,
          "the last operand must be peepholes, a recurrent bias or the update gate's matrix");
  s.matrix = update || (peepholes && shape.size() == 3);
  return s;
}

}  // namespace jax_mps
