// lstm, gru, mgu, rnn over whole sequences, alone or for a gradient to come.
#include "recurrent.h"

namespace jax_mps::metal::recurrent {
namespace {

constexpr int kRows = 4096;  // of the gates in scratch memory: so it does not grow with the steps

class Forward {
 public:
  Forward(Recipe& recipe, const Plan& plan, bool training) : plan_(plan), s_(recipe, plan) {
    const Plan& p = plan_;
    at_.y = recipe.result(0);
    const bool keeps_gates = training && !p.recompute;
    const int most = keeps_gates ? p.time : std::clamp(kRows / p.batch, 1, p.time);
    kept_cells_ = training;
    at_.gates = keeps_gates ? recipe.result(1 + p.states + p.is_lstm())
                            : s_.floats(int64_t{most} * p.batch * p.width);
    if (p.is_lstm()) cells_ = training ? recipe.result(3) : s_.floats(p.state());
    if (p.is_peeping()) at_.made = s_.floats(p.state());
    if (p.resets_state()) at_.reset = at_.update = s_.floats(p.state());
    if (p.resets_state() && p.extra) at_.update = s_.floats(p.state());
    at_.h = s_.floats(p.state()), at_.after = s_.floats(p.state());
    s_.widen(s_.h0, at_.h, p.state());
    if (p.is_peeping()) first_cell_ = s_.widened(s_.c0, p.state());
    for (int begin = 0; begin < p.time; begin += most) {
      const int steps = std::min(most, p.time - begin);
      const int low = p.reverse ? p.time - begin - steps : begin;
      s_.project(low, steps, at_.gates);
      for (int i = begin; i < begin + steps; i++) {
        add_step(i, low);
        std::swap(at_.h, at_.after);
      }
    }
    s_.narrow(at_.h, recipe.result(1), p.state());
    if (p.is_lstm()) s_.narrow(cells_of(p.time - 1), recipe.result(2), p.state());
  }

 private:
  // The cells that the i-th step makes, or the given ones.
  Span cells_of(int i) const {
    if (i < 0) return first_cell_;
    const size_t layer = sizeof(float) * plan_.state();
    return kept_cells_ ? cells_.part(plan_.time_of(i) * layer, layer) : cells_;
  }

  void add_step(int i, int low) {
    const int t = plan_.time_of(i);
    RecurrentParameters p = s_.step(t, plan_.batch);
    p.gate_row = (t - low) * plan_.batch;
    p.kept = kept_cells_;
    at_.before = plan_.is_peeping() ? cells_of(i - 1) : cells_;
    at_.cells = plan_.is_peeping() ? cells_of(i) : cells_;
    s_.add_steps(p, at_);
  }

  const Plan& plan_;
  Sequence s_;
  Steps at_{};
  Span cells_{}, first_cell_{};
  bool kept_cells_ = false;
};

template <bool training>
Offer forward(const Node& node) {
  PlanOrReason found = plan_of(node);
  if (!found.plan) return Offer::none(found.reason);
  Recipe recipe(node, "steps");
  Forward(recipe, *found.plan, training);
  return recipe;
}

const Register kLstm("lstm", {forward<false>});
const Register kLstmTraining("lstm_training", {forward<true>});
const Register kGru("gru", {forward<false>});
const Register kGruTraining("gru_training", {forward<true>});
const Register kMgu("mgu", {forward<false>});
const Register kMguTraining("mgu_training", {forward<true>});
const Register kRnn("rnn", {forward<false>});
const Register kRnnTraining("rnn_training", {forward<true>});

}  // namespace
}  // namespace jax_mps::metal::recurrent
