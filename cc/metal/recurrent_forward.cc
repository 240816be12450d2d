// lstm, gru, mgu, rnn over whole sequences, alone or for a gradient to come.
#include "recurrent.h"

namespace jax_mps::metal::recurrent {
namespace {

constexpr int kRows = 4096;  // of the gates in scratch memory: so it does not grow with the steps

class Forward {
 public:
  Forward(Recipe& recipe, const Plan& plan, bool training)
      : recipe_(recipe), plan_(plan), s_(recipe, plan, 0), y_(recipe.result(0)) {
    const Plan& p = plan_;
    const bool keeps_gates = training && !p.recompute;
    const int most = keeps_gates ? p.time : std::clamp(kRows / p.batch, 1, p.time);
    kept_cells_ = training;
    gates_ = keeps_gates ? recipe.result(1 + p.states + p.is_lstm())
                         : s_.floats(int64_t{most} * p.batch * p.width);
    if (p.is_lstm()) cells_ = training ? recipe.result(3) : s_.floats(p.state());
    if (p.resets_state()) reset_ = s_.floats(p.state());
    Span h = s_.floats(p.state()), after = s_.floats(p.state());
    s_.widen(s_.h0, h, p.state());
    for (int begin = 0; begin < p.time; begin += most) {
      const int steps = std::min(most, p.time - begin);
      const int low = p.reverse ? p.time - begin - steps : begin;
      s_.project(low, steps, gates_);
      for (int i = begin; i < begin + steps; i++) {
        add_step(p.time_of(i), low, h, after);
        std::swap(h, after);
      }
    }
    s_.narrow(h, recipe.result(1), p.state());
    const size_t layer = sizeof(float) * p.state();
    if (p.is_lstm())
      s_.narrow(cells_.part(training ? p.time_of(p.time - 1) * layer : 0, layer), recipe.result(2),
                p.state());
  }

 private:
  void add_step(int t, int low, Span h, Span after) {
    RecurrentParameters p = s_.step(t, plan_.batch);
    p.gate_row = (t - low) * plan_.batch;
    p.kept = kept_cells_;
    auto launch = [&](const char* function) -> Dispatch& {
      return s_.launch("recurrent", function, p);
    };
    switch (plan_.cell) {
      case CellKind::lstm:
        launch("lstm_step")
            .reads(h)
            .reads(s_.r)
            .reads(s_.b)
            .reads(s_.extra)
            .reads(s_.lengths)
            .reads(s_.c0)
            .reads(cells_)
            .updates(gates_)
            .writes(cells_)
            .writes(after)
            .writes(y_);
        return;
      case CellKind::gru_after:
        launch("gru_after_step")
            .reads(h)
            .reads(s_.r)
            .reads(s_.b)
            .reads(s_.extra)
            .reads(s_.lengths)
            .updates(gates_)
            .writes(after)
            .writes(y_);
        return;
      case CellKind::gru:
      case CellKind::mgu:
        launch(plan_.cell == CellKind::gru ? "gru_gates" : "mgu_gates")
            .reads(h)
            .reads(s_.r)
            .reads(s_.b)
            .updates(gates_)
            .writes(reset_);
        p.r_column = plan_.first;
        launch("gru_step")
            .reads(reset_)
            .reads(s_.r)
            .reads(s_.b)
            .reads(s_.lengths)
            .reads(h)
            .updates(gates_)
            .writes(after)
            .writes(y_);
        return;
      case CellKind::rnn:
        launch("rnn_step")
            .reads(h)
            .reads(s_.r)
            .reads(s_.b)
            .reads(s_.lengths)
            .updates(gates_)
            .writes(after)
            .writes(y_);
        return;
    }
  }

  Recipe& recipe_;
  const Plan& plan_;
  Sequence s_;
  Span y_, gates_{}, cells_{}, reset_{};
  bool kept_cells_ = false;
};

template <bool training>
Offer forward(const Node& node, CellKind cell) {
  PlanOrReason found = plan_of(node, cell, 0);
  if (!found.plan) return Offer::none(found.reason);
  const Plan& p = *found.plan;
  const size_t kept = training ? p.is_lstm() + !p.recompute : 0;
  require_counts(node, 5 + p.states + p.extra, 1 + p.states + kept);
  require_shape(node.out[0], {p.batch, p.time, p.hidden});
  for (int i = 0; i < p.states; i++) require_shape(node.out[1 + i], {p.batch, p.hidden});
  for (int i = 0; i <= p.states; i++)
    require(node.out[i].dtype == p.dtype, "y and the states must have x's dtype");
  for (size_t i = 1 + p.states; i < node.out.size(); i++) {
    const bool cells = p.is_lstm() && i == 3;
    require_shape(node.out[i], {p.time, p.batch, cells ? p.hidden : p.width});
    require(node.out[i].dtype == DType::f32, "cells and gates must be f32");
  }
  Recipe recipe(node, "steps");
  Forward(recipe, p, training);
  return recipe;
}

template <bool training>
Offer lstm(const Node& node) {
  return forward<training>(node, CellKind::lstm);
}
template <bool training>
Offer gru(const Node& node) {
  const bool after = node.attributes.string("reset") == "after";
  return forward<training>(node, after ? CellKind::gru_after : CellKind::gru);
}
template <bool training>
Offer mgu(const Node& node) {
  return forward<training>(node, CellKind::mgu);
}
template <bool training>
Offer rnn(const Node& node) {
  return forward<training>(node, CellKind::rnn);
}

const Register kLstm("lstm", {lstm<false>});
const Register kLstmTraining("lstm_training", {lstm<true>});
const Register kGru("gru", {gru<false>});
const Register kGruTraining("gru_training", {gru<true>});
const Register kMgu("mgu", {mgu<false>});
const Register kMguTraining("mgu_training", {mgu<true>});
const Register kRnn("rnn", {rnn<false>});
const Register kRnnTraining("rnn_training", {rnn<true>});

}  // namespace
}  // namespace jax_mps::metal::recurrent
