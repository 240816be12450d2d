// The gradients of lstm, gru, mgu, rnn: back through the steps, then one product over all steps for
// each of the weights' gradients.
#include "metal/kernels/shape_parameters.h"
#include "recurrent.h"

namespace jax_mps::metal::recurrent {
namespace {

class Gradient {
 public:
  // `places`: of dx, dh (, dc), dw, dr, db (, dextra) among the results, or -1.
  Gradient(Recipe& recipe, const Plan& plan, std::vector<int> places)
      : recipe_(recipe), plan_(plan), places_(std::move(places)), s_(recipe, plan) {
    const Plan& p = plan_;
    int at = 1 + p.states + 5 + p.states + p.extra;
    const Span y = recipe.operand(at++);
    cells_ = p.is_lstm() ? recipe.operand(at++) : Span{};
    dgates_ = s_.floats(p.rows() * p.width);
    gates_ = p.recompute ? dgates_ : recipe.operand(at);
    before_ = s_.floats(p.rows() * p.hidden);
    add_before("recurrent", "states_before", s_.h0, y, before_);
    if (p.resets_state()) {
      reset_ = update_ = s_.floats(p.rows() * p.hidden), raw_ = s_.floats(p.state());
      if (p.extra) update_ = s_.floats(p.rows() * p.hidden);
    }
    if (p.is_peeping()) {
      cells_before_ = s_.floats(p.rows() * p.hidden);
      add_before("recurrent_peephole", "cells_before", s_.c0, cells_, cells_before_);
    }
    if (p.recompute)  // the gates of all steps from their inputs and the states before them
      s_.project(0, p.time, gates_), s_.add_steps(s_.step(0, p.rows()), known_steps());
    dh_ = s_.floats(p.state());
    s_.widen(recipe.operand(1), dh_, p.state());
    if (p.is_lstm()) {
      dc_ = s_.floats(p.state());
      s_.widen(recipe.operand(2), dc_, p.state());
    }
    for (int i = p.time - 1; i >= 0; i--) add_step(i);
    if (const auto dh = result(1))
      s_.launch("recurrent_gradient", "state_gradient", from_after(-1))
          .reads(dgates_)
          .reads(s_.r)
          .reads(dh_)
          .writes(*dh);
    if (p.is_lstm()) add_cell_gradient();
    add_weights();
  }

 private:
  std::optional<Span> result(size_t i) {
    if (i >= places_.size() || places_[i] < 0) return std::nullopt;
    return recipe_.result(places_[i]);
  }

  void add_cell_gradient() {
    const auto dc = result(2);
    if (!dc) return;
    if (!plan_.is_peeping()) return s_.narrow(dc_, *dc, plan_.state());
    s_.launch("recurrent_peephole", "cell_gradient", from_after(-1))
        .reads(dgates_)
        .reads(s_.extra)
        .reads(dc_)
        .writes(*dc);
  }

  // [time, batch, hidden]: what each step begins with.
  void add_before(const char* file, const char* function, Span first, Span all, Span before) {
    const Plan& p = plan_;
    const int count = static_cast<int>(p.rows() * p.hidden);
    recipe_.dispatch(file, function, storage(p.dtype))
        .constants({1, 0, 0, 0})
        .parameters(
            StatesParameters{count, p.batch, p.time, p.hidden, p.time_of(0), p.reverse ? 1 : -1})
        .reads(first)
        .reads(all)
        .writes(before)
        .over_elements(count);
  }

  Steps known_steps() const {
    Steps at{};
    at.h = before_, at.gates = gates_, at.made = cells_;
    at.before = plan_.is_peeping() ? cells_before_ : cells_;
    at.reset = reset_, at.update = update_;
    at.gates_only = true;
    return at;
  }

  // The i-th step (-1: the initial state), with the product of what comes from the step after it.
  RecurrentParameters from_after(int i) const {
    const Plan& plan = plan_;
    RecurrentParameters p = s_.step(plan.time_of(std::max(i, 0)), plan.batch);
    p.a_width = plan.width;
    p.depth = i + 1 < plan.time ? plan.first : 0;
    p.a_row = i + 1 < plan.time ? plan.time_of(i + 1) * plan.batch : 0;
    if (plan.cell == Cell::gru_after) p.gap_from = 2 * plan.hidden, p.gap = plan.hidden;
    return p;
  }

  void add_step(int i) {
    const Plan& plan = plan_;
    RecurrentParameters p = from_after(i);
    const Span dy = recipe_.operand(0);
    auto launch = [&](const char* function) -> Dispatch& {
      Dispatch& dispatch = s_.launch("recurrent_gradient", function, p);
      return dispatch.reads(dgates_).reads(s_.r);
    };
    switch (plan.cell) {
      case Cell::lstm:
        if (plan.matrix) return add_peeping_step(p);
        launch("lstm_backward")
            .reads(dy)
            .reads(s_.lengths)
            .reads(s_.extra)
            .reads(s_.c0)
            .reads(cells_)
            .reads(gates_)
            .writes(dgates_)
            .updates(dh_)
            .updates(dc_);
        return;
      case Cell::gru_after:
        launch("gru_after_backward")
            .reads(dy)
            .reads(s_.lengths)
            .reads(before_)
            .reads(gates_)
            .writes(dgates_)
            .updates(dh_);
        return;
      case Cell::gru:
      case Cell::mgu:
        launch("gru_backward")
            .reads(dy)
            .reads(s_.lengths)
            .reads(before_)
            .reads(gates_)
            .writes(dgates_)
            .updates(dh_)
            .writes(raw_);
        p.depth = plan.columns - plan.first, p.a_row = p.gate_row;
        p.a_column = p.r_column = plan.first;
        launch("gru_gates_backward")
            .reads(s_.extra)
            .reads(s_.lengths)
            .reads(before_)
            .reads(raw_)
            .reads(gates_)
            .writes(dgates_)
            .updates(dh_)
            .writes(reset_)
            .writes(update_);
        return;
      case Cell::rnn:
        launch("rnn_backward")
            .reads(dy)
            .reads(s_.lengths)
            .reads(gates_)
            .writes(dgates_)
            .updates(dh_);
        return;
    }
  }

  void add_peeping_step(const RecurrentParameters& p) {
    s_.launch("recurrent_peephole", "lstm_outputs_backward", p)
        .reads(dgates_)
        .reads(s_.r)
        .reads(recipe_.operand(0))
        .reads(s_.lengths)
        .reads(s_.extra)
        .reads(cells_)
        .reads(gates_)
        .writes(dgates_)
        .updates(dh_)
        .updates(dc_);
    s_.launch("recurrent_peephole", "lstm_cells_backward", p)
        .reads(dgates_)
        .reads(s_.extra)
        .reads(s_.lengths)
        .reads(cells_before_)
        .reads(gates_)
        .writes(dgates_)
        .updates(dc_);
  }

  void add_weights() {
    const Plan& p = plan_;
    const int first = 1 + p.states;  // behind dx and the states' gradients
    if (const auto dx = result(0)) add_inputs(*dx);
    if (const auto dw = result(first)) add_input_weights(*dw);
    if (const auto dr = result(first + 1)) add_recurrent_weights(*dr);
    const auto db = result(first + 2), extra = result(first + 3);
    if (db || (extra && p.cell == Cell::gru_after)) add_biases(db, extra);
    if (!extra || p.cell == Cell::gru_after) return;
    const size_t square = size_of(p.dtype) * p.hidden * p.hidden;
    if (!p.matrix) {
      add_peephole(*extra);
    } else if (p.is_lstm()) {
      add_squares(cells_before_, 0, 2, extra->part(0, 2 * square));
      add_squares(cells_, 3 * p.hidden, 1, extra->part(2 * square, square));
    } else {
      add_squares(update_, p.first, 1, *extra);
    }
  }

  // dx of each step, or of each sequence, lies with a stride.
  void add_inputs(Span dx) {
    const Plan& p = plan_;
    Gemm gemm = s_.product(p.time, p.inputs, p.columns, dgates_,
                           s_.widened(s_.w, int64_t{p.inputs} * p.columns), dx, p.dtype);
    gemm.batches = p.batch;
    gemm.p.a_row = p.batch * p.width, gemm.p.a_batch = p.width;
    gemm.p.b_inner = 1, gemm.p.b_column = p.columns;
    gemm.p.c_batch = p.time * p.inputs;
    gemm.p.total = static_cast<int>(p.rows()) * p.inputs;
    s_.add(gemm);
  }

  // The sum over k runs over the sequences' own order, [batch, time].
  void add_input_weights(Span dw) {
    const Plan& p = plan_;
    Gemm gemm = s_.product(p.inputs, p.columns, static_cast<int>(p.rows()),
                           s_.widened(s_.x, p.rows() * p.inputs), dgates_, dw, p.dtype);
    gemm.p.a_row = 1, gemm.p.a_column = p.inputs;
    gemm.p.b_inner = p.batch * p.width, gemm.p.b_divisor = p.time;
    gemm.p.b_outer = p.width;
    gemm.splits = true;
    s_.add(gemm);
  }

  void add_recurrent_weights(Span dr) {
    const Plan& p = plan_;
    if (p.cell == Cell::gru_after) {
      add_recurrent(before_, 0, 2 * p.hidden, 0, dr);
      add_recurrent(before_, 3 * p.hidden, p.hidden, 2 * p.hidden, dr);
    } else {
      add_recurrent(before_, 0, p.first, 0, dr);
      if (p.first < p.columns) add_recurrent(reset_, p.first, p.hidden, p.first, dr);
    }
  }

  // The gradients of square matrices, from some columns of dgates on.
  void add_squares(Span states, int from, int count, Span to) {
    const Plan& p = plan_;
    const size_t skipped = from * sizeof(float);
    Gemm gemm = s_.product(p.hidden, p.hidden, static_cast<int>(p.rows()), states,
                           dgates_.part(skipped, dgates_.bytes - skipped), to, p.dtype);
    gemm.p.a_row = 1, gemm.p.a_column = p.hidden;
    gemm.p.b_inner = p.width, gemm.p.b_batch = p.hidden;
    gemm.batches = count;
    gemm.p.c_batch = p.hidden * p.hidden, gemm.p.total *= count;
    gemm.splits = true;
    s_.add(gemm);
  }

  // Columns [to, to + width) of dr, from those of dgates.
  void add_recurrent(Span states, int from, int width, int to, Span dr) {
    const Plan& p = plan_;
    const bool whole = width == p.columns;
    const size_t skipped = from * sizeof(float);
    Span c = whole ? dr : recipe_.scratch(size_of(p.dtype) * p.hidden * width);
    Gemm gemm = s_.product(p.hidden, width, static_cast<int>(p.rows()), states,
                           dgates_.part(skipped, dgates_.bytes - skipped), c, p.dtype);
    gemm.p.a_row = 1, gemm.p.a_column = p.hidden;
    gemm.p.b_inner = p.width;
    gemm.splits = true;
    s_.add(gemm);
    if (whole) return;
    BoxParameters box{};
    box.count = p.hidden * width, box.rank = 2, box.to_offset = to;
    box.size[0] = p.hidden, box.from[0] = width, box.to[0] = p.columns;
    box.size[1] = width, box.from[1] = box.to[1] = 1;
    recipe_.dispatch("shape_ops", "copy_box", storage(p.dtype))
        .parameters(box)
        .reads(c)
        .writes(dr)
        .over_elements(box.count);
  }

  void add_biases(std::optional<Span> db, std::optional<Span> extra) {
    const Plan& p = plan_;
    ColumnParameters columns =
        columns_of({DType::f32, {int64_t{p.batch} * p.time, int64_t{p.width}}});
    Span partial = recipe_.scratch(part_bytes(columns));
    Dispatch& sums = recipe_.dispatch("column", "column_sum", storage(DType::f32));
    sums.parameters(columns).reads(dgates_).writes(partial);
    over_parts(sums, columns);
    if (p.cell != Cell::gru_after) return add_parts(recipe_, columns, partial, *db, p.dtype);
    const size_t size = sizeof(float) * p.hidden;
    Span total = recipe_.scratch(4 * size);
    add_parts(recipe_, columns, partial, total, DType::f32);
    if (db) s_.narrow(total.part(0, 3 * size), *db, 3 * p.hidden);
    if (extra) s_.narrow(total.part(3 * size, size), *extra, p.hidden);
  }

  void add_peephole(Span gradient) {
    const Plan& p = plan_;
    ColumnParameters columns = columns_of({DType::f32, {p.rows(), int64_t{3} * p.hidden}});
    Span partial = recipe_.scratch(part_bytes(columns));
    Dispatch& sums = recipe_.dispatch("recurrent_gradient", "peephole_gradient", storage(p.dtype));
    sums.constants({1, 0, 0, 0})
        .parameters(PeepholeParameters{columns.rows, p.batch, p.hidden, p.width, columns.parts,
                                       p.time_of(0), p.reverse ? 1 : -1})
        .reads(dgates_)
        .reads(s_.c0)
        .reads(cells_)
        .writes(partial);
    over_parts(sums, columns);
    add_parts(recipe_, columns, partial, gradient, p.dtype);
  }

  Recipe& recipe_;
  const Plan& plan_;
  const std::vector<int> places_;
  Sequence s_;
  Span cells_{}, gates_{}, dgates_{}, before_{}, cells_before_{}, reset_{}, update_{}, raw_{},
      dh_{}, dc_{};
};

Offer gradient(const Node& node) {
  PlanOrReason found = plan_of(node);
  if (!found.plan) return Offer::none(found.reason);
  const Plan& p = *found.plan;
  Recipe recipe(node, "steps");
  Gradient(recipe, p, places_of_results(node, 4 + p.states + p.extra));
  return recipe;
}

const Register kLstmGradient("lstm_gradient", {gradient});
const Register kGruGradient("gru_gradient", {gradient});
const Register kMguGradient("mgu_gradient", {gradient});
const Register kRnnGradient("rnn_gradient", {gradient});

}  // namespace
}  // namespace jax_mps::metal::recurrent
