// The gradients of lstm, gru, mgu, rnn: back through the steps, then the weights' gradients of each
// chunk of steps as one product.
#include <cstring>

#include "cpu/device.h"
#include "general.h"
#include "ir/require.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu::recurrent {
namespace {

class Gradient : public Kernel {
 public:
  // `places`: of dx, dh (, dc), dw, dr, db (, dextra) among the results, or -1.
  Gradient(const Plan& plan, std::vector<int> places)
      : plan_(plan), chunks_(plan), places_(std::move(places)) {
    const Plan& p = plan_;
    using Matrix = Matmul::Matrix;
    const Matrix whole{p.columns}, across{p.columns, true}, dgates{p.dgates_stride()};
    for (int kind = 0; kind < chunks_.kinds(); kind++) {
      const int64_t rows = chunks_.steps(kind == 0) * p.batch;
      const bool add = kind == 1;
      OfChunk& c = products_[kind];
      for (size_t i = 0; i < p.segments.size(); i++) {
        const int64_t width = p.segments[i].width;
        c.dw.emplace_back(p.inputs, rows, width, Matrix{p.inputs, true}, dgates, p.columns,
                          Matmul::Options{.accumulate = add});
        c.dx.emplace_back(rows, width, p.inputs, dgates, across, p.inputs,
                          Matmul::Options{.accumulate = i > 0});
        if (p.recompute)
          c.sums.emplace_back(rows, p.inputs, width, Matrix{p.inputs}, whole, p.width,
                              Matmul::Options{.bias = true});
      }
      if (p.matrix)
        c.dsquare.emplace_back(p.hidden, rows, p.hidden, Matrix{p.hidden, true}, dgates, p.hidden,
                               Matmul::Options{.accumulate = add});
      for (int64_t columns : {p.first, p.second()}) {
        if (columns == 0) continue;
        c.dr.emplace_back(p.hidden, rows, columns, Matrix{p.hidden, true}, dgates, p.columns,
                          Matmul::Options{.accumulate = add});
        if (p.recompute)
          c.memory.emplace_back(rows, p.hidden, columns, Matrix{p.hidden}, whole, p.width,
                                Matmul::Options{.accumulate = true});
      }
    }

    if (p.general) general_.emplace(p, /*backward=*/true);
    if (p.general && p.recompute) again_.emplace(p, /*backward=*/false);

    Layout layout;
    const int64_t rows = chunks_.largest() * p.batch;
    work_ = general_ ? layout.bytes(general_->bytes())
                     : layout.floats(recurrent_backward().floats(p.shape()));
    if (again_) {
      again_work_ = layout.bytes(again_->bytes());
      again_h_ = layout.floats(p.batch * p.hidden);
      again_c_ = layout.floats(p.batch * p.hidden);
    }
    if (p.matrix) other_ = layout.floats(rows * p.hidden);
    x_ = layout.floats(rows * p.inputs);
    dx_ = layout.floats(rows * p.inputs);
    h_ = layout.floats(rows * p.hidden);
    reset_ = layout.floats(rows * p.hidden);
    dgates_ = layout.floats(rows * p.dgates_stride());
    if (p.recompute) gates_ = layout.floats(rows * p.width);
    totals_ = layout.floats(p.width);
    for (int i = 0; i < p.states; i++)
      if (places_[1 + i] < 0) states_[i] = layout.floats(p.batch * p.hidden);
    size_t most = 0;
    each_product([&](const Matmul& m) { most = std::max(most, m.scratch_bytes()); });
    product_ = layout.bytes(most);
    scratch_bytes_ = layout.end();
  }

  bool supported() const {
    bool all = true;
    each_product([&](const Matmul& m) { all = all && m.supported(); });
    return all && (!general_ || general_->supported()) && (!again_ || again_->supported());
  }
  std::string implementation() const override {
    if (general_) return "steps and the rest on " + general_->name();
    return std::string("steps in panels ") + isa_name() + ", the rest on " +
           products_[0].dr[0].name();
  }
  size_t scratch_bytes() const override { return scratch_bytes_; }

  void run(const Buffers& b) const override {
    const Plan& p = plan_;
    const RecurrentLoops& loops = recurrent_loops();
    const RecurrentBackwardLoops& engine = recurrent_backward();
    const int before = 1 + p.states;
    const Operands o = operands_of(p, b);
    const int64_t state = p.batch * p.hidden;
    int at_input = before + 5 + p.states + (p.extra ? 1 : 0);
    const float* y = b.input<float>(at_input++);
    const float* cells = p.is_lstm() ? b.input<float>(at_input++) : nullptr;
    const float* kept = p.recompute ? nullptr : b.input<float>(at_input);
    auto result = [&](size_t i) {
      return i < places_.size() && places_[i] >= 0 ? b.output<float>(places_[i]) : nullptr;
    };
    float *dx = result(0), *dw = result(1 + p.states), *dr = result(2 + p.states),
          *db = result(3 + p.states), *dextra = result(4 + p.states);
    auto at = [&](size_t offset) { return reinterpret_cast<float*>(b.scratch + offset); };
    auto state_result = [&](int i) { return places_[1 + i] < 0 ? at(states_[i]) : result(1 + i); };
    std::byte* scratch = b.scratch + product_;

    RecurrentSteps s = steps_of(p, o, at(work_));
    s.cells = const_cast<float*>(cells), s.cells_kept = true;
    s.dy = b.input<float>(0), s.h_before = at(h_);
    s.reset = at(reset_), s.dgates = at(dgates_);
    s.update = p.matrix && !p.is_lstm() ? at(other_) : nullptr;
    s.dh = state_result(0);
    std::memcpy(s.dh, b.in[1], state * sizeof(float));
    if (p.is_lstm()) {
      s.dc = state_result(1);
      std::memcpy(s.dc, b.in[2], state * sizeof(float));
      if (dextra && !p.matrix) std::memset(dextra, 0, 3 * p.hidden * sizeof(float));
    }
    general_ ? general_->begin(s, o) : engine.begin(s, o.r);
    RecurrentSteps again = steps_of(p, o, at(again_work_));
    if (again_) again_->begin(again, o);
    for (int64_t chunk = 0; chunk < chunks_.count(); chunk++) {
      const OfChunk& products = products_[chunk != 0];
      const int64_t steps = chunks_.steps(chunk == 0), begin = chunks_.begin(chunk);
      const int64_t low = p.reverse ? begin : p.time - begin - steps;
      const int64_t rows = steps * p.batch;
      if (dw || p.recompute) loops.gather(o.x, at(x_), p.batch, p.time, p.inputs, low, steps);
      states_before(o.h0, y, at(h_), low, steps);
      auto cells_at = [&](int64_t t) { return t < 0 || t >= p.time ? o.c0 : cells + t * state; };
      float* gates = p.recompute ? at(gates_) : const_cast<float*>(kept) + low * p.batch * p.width;
      if (again_) {
        again.count = steps, again.low = low, again.gates = gates;
        again.first = p.reverse ? low + steps - 1 : low;
        again.h = at(again_h_);
        std::memcpy(again.h, s.h_before + (again.first - low) * state, state * sizeof(float));
        again.cells = at(again_c_);
        if (p.is_lstm()) {
          const float* c = cells_at(again.first + (p.reverse ? 1 : -1));
          std::memcpy(again.cells, c, state * sizeof(float));
          again.c0 = again.cells;
        }
        input_sums(products, o, gates, b.scratch);
        again_->forward(again);
      } else if (p.recompute) {
        gates_again(products, o, cells_at, gates, low, steps, b.scratch);
      }
      s.count = steps, s.low = low, s.gates = gates;
      s.first = p.reverse ? low : low + steps - 1;
      general_ ? general_->backward(s, chunk == 0) : engine.run(s, chunk == 0);
      if (chunk + 1 == chunks_.count() && (places_[1] >= 0 || places_[p.states] >= 0))
        general_ ? general_->end(s) : engine.end(s);
      if (p.matrix && dextra) {
        const Matmul& product = products.dsquare[0];
        const float* d = at(dgates_);
        const int64_t n = p.hidden;
        if (p.is_lstm()) {
          for (int64_t t = low; t < low + steps; t++)
            std::memcpy(at(other_) + (t - low) * state, cells_at(t + (p.reverse ? 1 : -1)),
                        state * sizeof(float));
          product.run(at(other_), d, dextra, scratch);
          product.run(at(other_), d + n, dextra + n * n, scratch);
          product.run(cells + low * state, d + 3 * n, dextra + 2 * n * n, scratch);
        } else {
          product.run(at(other_), d + p.first, dextra, scratch);
        }
      } else if (p.is_lstm() && dextra) {
        for (int64_t t = low; t < low + steps; t++) {
          RecurrentGates g{};
          g.rows = p.batch, g.hidden = p.hidden;
          g.c_before = cells_at(t + (p.reverse ? 1 : -1)), g.c = cells_at(t);
          loops.peephole_gradient(g, s.dgates + (t - low) * p.batch * p.dgates_stride(),
                                  p.dgates_stride(), dextra);
        }
      }
      const float* dgates = at(dgates_);
      for (size_t i = 0; i < p.segments.size(); i++) {
        const Segment& part = p.segments[i];
        if (dw) products.dw[i].run(at(x_), dgates + part.gates, dw + part.w, scratch);
        if (dx) products.dx[i].run(dgates + part.gates, o.w + part.w, at(dx_), scratch);
      }
      if (dr) {
        products.dr[0].run(at(h_), dgates, dr, scratch);
        if (p.second()) products.dr[1].run(at(reset_), dgates + p.first, dr + p.first, scratch);
      }
      if (dx) loops.scatter(at(dx_), dx, p.batch, p.time, p.inputs, low, steps);
      if (db || (dextra && p.cell == Cell::gru_after))
        loops.column_sums(dgates, p.dgates_stride(), at(totals_), rows, p.width, chunk > 0);
    }
    for (const Segment& part : p.segments)
      if (db) std::memcpy(db + part.w, at(totals_) + part.gates, part.width * sizeof(float));
    if (dextra && p.cell == Cell::gru_after)
      std::memcpy(dextra, at(totals_) + 2 * p.hidden, p.hidden * sizeof(float));
  }

 private:
  // Products over all rows of a chunk, by segment (dw, dx, sums) or by part of r (dr, memory).
  struct OfChunk {
    std::vector<Matmul> dw, dx, sums, dr, memory, dsquare;
  };

  template <class F>
  void each_product(const F& f) const {
    for (const OfChunk& c : products_)
      for (const auto* list : {&c.dw, &c.dx, &c.sums, &c.dr, &c.memory, &c.dsquare})
        for (const Matmul& m : *list) f(m);
  }

  // [steps, batch, hidden]: the state that each step began with.
  void states_before(const float* h0, const float* y, float* h, int64_t low, int64_t steps) const {
    const Plan& p = plan_;
    const int64_t state = p.batch * p.hidden;
    const bool from_start = p.reverse ? low + steps == p.time : low == 0;
    const int64_t count = from_start ? steps - 1 : steps;
    float* first = h + (from_start && !p.reverse ? state : 0);
    const int64_t from = p.reverse ? low + 1 : (from_start ? 0 : low - 1);
    recurrent_loops().gather(y, first, p.batch, p.time, p.hidden, from, count);
    if (from_start) std::memcpy(p.reverse ? h + count * state : h, h0, state * sizeof(float));
  }

  // The inputs' share of the gates of a chunk.
  void input_sums(const OfChunk& products, const Operands& o, float* gates,
                  std::byte* memory) const {
    const float* x = reinterpret_cast<float*>(memory + x_);
    for (size_t i = 0; i < plan_.segments.size(); i++) {
      const Segment& part = plan_.segments[i];
      products.sums[i].run(x, o.w + part.w, gates + part.gates, memory + product_, o.b + part.w);
    }
  }

  // The gates of a chunk from its inputs and the states before, all steps at once.
  template <class Cells>
  void gates_again(const OfChunk& products, const Operands& o, const Cells& cells_at, float* gates,
                   int64_t low, int64_t steps, std::byte* memory) const {
    const Plan& p = plan_;
    const RecurrentLoops& loops = recurrent_loops();
    auto at = [&](size_t offset) { return reinterpret_cast<float*>(memory + offset); };
    std::byte* scratch = memory + product_;
    input_sums(products, o, gates, memory);
    RecurrentGates g{};
    g.rows = steps * p.batch, g.hidden = p.hidden, g.width = p.width;
    g.gates = gates, g.h_before = at(h_), g.reset = at(reset_), g.extra = o.extra;
    if (p.cell == Cell::gru_after)
      loops.fill(o.extra, gates + 2 * p.hidden, g.rows, p.hidden, p.width);
    products.memory[0].run(at(h_), o.r, gates, scratch);
    switch (p.cell) {
      case Cell::lstm:
        g.rows = p.batch;
        for (int64_t t = low; t < low + steps; t++, g.gates += p.batch * p.width) {
          g.c_before = cells_at(t + (p.reverse ? 1 : -1));
          loops.lstm(g);
        }
        return;
      case Cell::gru_after:
        return loops.gru_after(g);
      case Cell::gru:
      case Cell::mgu:
        loops.gru_gates(g);
        products.memory[1].run(g.reset, o.r + p.first, gates + p.first, scratch);
        return loops.candidate(g);
      case Cell::rnn:
        return;
    }
  }

  Plan plan_;
  Chunks chunks_;
  std::vector<int> places_;
  OfChunk products_[2];
  std::optional<GeneralSteps> general_, again_;  // again_: forward, for the gates
  size_t again_work_ = 0, again_h_ = 0, again_c_ = 0, other_ = 0;
  size_t work_, x_, dx_, h_, reset_, dgates_, gates_ = 0, totals_, product_, scratch_bytes_;
  size_t states_[2];  // of the gradients of the states, where they are no results
};

Offer gradient(const Node& node) {
  PlanOrReason found = plan_of(node);
  if (!found.plan) return Offer::none(found.reason);
  const Plan& p = *found.plan;
  auto kernel = std::make_unique<Gradient>(p, places_of_results(node, 4 + p.states + p.extra));
  if (!kernel->supported()) return Offer::none("oneDNN has no product of these shapes");
  return Offer(std::move(kernel));
}

const Register kLstmGradient("lstm_gradient", {gradient});
const Register kGruGradient("gru_gradient", {gradient});
const Register kMguGradient("mgu_gradient", {gradient});
const Register kRnnGradient("rnn_gradient", {gradient});

}  // namespace
}  // namespace jax_mps::cpu::recurrent

#endif
