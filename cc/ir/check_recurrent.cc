// lstm, gru, mgu and rnn over whole sequences, with <cell>_training and <cell>_gradient.
#include "check.h"
#include "recurrent.h"
#include "require.h"

namespace jax_mps {
namespace {

using Shape = std::vector<int64_t>;

struct Shapes {
  Shape state, states, cells, gates;
  explicit Shapes(const RecurrentNode& s)
      : state{s.batch, s.hidden},
        states{s.batch, s.time, s.hidden},
        cells{s.time, s.batch, s.hidden},
        gates{s.time, s.batch, s.width} {}
};

// What training keeps for the gradient.
void require_materialised(const TensorType& type, const Shape& shape) {
  require_shape(type, shape);
  require_dtype(type, DType::f32);
}

template <bool training>
void forward(const Node& node) {
  const RecurrentNode s = recurrent_of(node);
  const Shapes shapes(s);
  const bool cells = training && s.states == 2, gates = training && !s.recompute;
  require_counts(node, node.in.size(), 1 + s.states + cells + gates);
  const DType dtype = node.in[0].dtype;
  require_shape(node.out[0], shapes.states);
  for (int i = 0; i < s.states; i++) require_shape(node.out[1 + i], shapes.state);
  for (int i = 0; i <= s.states; i++) require_dtype(node.out[i], dtype);
  if (cells) require_materialised(node.out[3], shapes.cells);
  if (gates) require_materialised(node.out[1 + s.states + cells], shapes.gates);
}

void gradient(const Node& node) {
  const RecurrentNode s = recurrent_of(node);
  const Shapes shapes(s);
  const size_t before = s.skip, end = before + s.fixed() + s.extra;
  require_shape(node.in[0], shapes.states);
  for (size_t i = 1; i < before; i++) require_shape(node.in[i], shapes.state);
  require_shape(node.in[end], shapes.states);
  require_dtype(node.in[end], node.in[before].dtype);
  for (size_t i = 0; i < before; i++) require_floating(node.in[i]);
  if (s.states == 2) require_materialised(node.in[end + 1], shapes.cells);
  if (!s.recompute) require_materialised(node.in[end + s.states], shapes.gates);
  const std::vector<int> places = places_of_results(node, 4 + s.states + s.extra);
  for (size_t i = 0; i < places.size(); i++) {
    if (places[i] < 0) continue;
    require_shape(node.out[places[i]], node.in[before + (i ? 1 : 0) + i].shape);
    require_dtype(node.out[places[i]], node.in[before].dtype);
  }
}

const Checker kLstmForward("lstm", forward<false>);
const Checker kLstmTraining("lstm_training", forward<true>);
const Checker kLstmGradient("lstm_gradient", gradient);
const Checker kGruForward("gru", forward<false>);
const Checker kGruTraining("gru_training", forward<true>);
const Checker kGruGradient("gru_gradient", gradient);
const Checker kMguForward("mgu", forward<false>);
const Checker kMguTraining("mgu_training", forward<true>);
const Checker kMguGradient("mgu_gradient", gradient);
const Checker kRnnForward("rnn", forward<false>);
const Checker kRnnTraining("rnn_training", forward<true>);
const Checker kRnnGradient("rnn_gradient", gradient);

}  // namespace
}  // namespace jax_mps
