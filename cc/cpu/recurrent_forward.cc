// lstm, gru, mgu, rnn over whole sequences, alone or for a gradient to come.
#include <cstring>

#include "device.h"
#include "recurrent.h"
#include "require.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu::recurrent {
namespace {

class Forward : public Kernel {
 public:
  Forward(const Plan& plan, bool training) : plan_(plan), chunks_(plan), training_(training) {
    const Plan& p = plan_;
    for (int kind = 0; kind < chunks_.kinds(); kind++)
      for (const Segment& s : p.segments)
        inputs_[kind].emplace_back(chunks_.steps(kind == 0) * p.batch, p.inputs, s.width,
                                   Matmul::Matrix{p.inputs}, Matmul::Matrix{p.columns}, p.width,
                                   Matmul::Options{.bias = true});
    auto step = [&](int64_t columns) {
      return Matmul(p.batch, p.hidden, columns, {p.hidden}, {p.columns}, p.width,
                    {.accumulate = true, .packed = true});
    };
    products_.push_back(step(p.first));
    if (p.second()) products_.push_back(step(p.second()));

    Layout layout;
    const int64_t rows = chunks_.largest() * p.batch;
    for (size_t i = 0; i < products_.size(); i++)
      packed_[i] = layout.bytes(products_[i].packed_bytes());
    x_ = layout.floats(rows * p.inputs);
    if (!keeps_gates()) gates_ = layout.floats(rows * p.width);
    h_ = layout.floats(p.batch * p.hidden);
    c_ = layout.floats(p.batch * p.hidden);
    reset_ = layout.floats(p.batch * p.hidden);
    size_t most = 0;
    for (const auto* list : {&inputs_[0], &inputs_[1], &products_})
      for (const Matmul& m : *list) most = std::max(most, m.scratch_bytes());
    product_ = layout.bytes(most);
    scratch_bytes_ = layout.end();
  }

  bool supported() const {
    for (const auto* list : {&inputs_[0], &inputs_[1], &products_})
      for (const Matmul& m : *list)
        if (!m.supported()) return false;
    return true;
  }
  std::string implementation() const override {
    return "steps on oneDNN " + products_[0].name() + " and " + isa_name();
  }
  size_t scratch_bytes() const override { return scratch_bytes_; }

  void run(const Buffers& b) const override {
    const Plan& p = plan_;
    const RecurrentLoops& loops = recurrent_loops();
    const Operands o = operands_of(p, b, 0);
    const int64_t state = p.batch * p.hidden;
    auto at = [&](size_t offset) { return reinterpret_cast<float*>(b.scratch + offset); };
    std::byte* scratch = b.scratch + product_;
    for (size_t i = 0; i < products_.size(); i++)
      products_[i].pack(o.r + (i == 0 ? 0 : p.first), b.scratch + packed_[i]);
    float* kept_cells = training_ && p.is_lstm() ? b.output<float>(3) : nullptr;
    float* kept_gates =
        keeps_gates() ? b.output<float>(1 + p.states + (p.is_lstm() ? 1 : 0)) : nullptr;

    RecurrentStep s{};
    s.rows = p.batch, s.hidden = p.hidden, s.width = p.width;
    s.h = at(h_), s.h_before = s.h, s.reset = at(reset_);
    s.y_stride = p.time * p.hidden;
    s.extra = o.extra, s.lengths = o.lengths, s.p = p.p, s.flip = p.flip;
    std::memcpy(s.h, o.h0, state * sizeof(float));
    s.c_before = o.c0;
    for (int64_t chunk = 0; chunk < chunks_.count(); chunk++) {
      const int64_t steps = chunks_.steps(chunk == 0), begin = chunks_.begin(chunk);
      const int64_t low = p.reverse ? p.time - begin - steps : begin;
      float* gates = kept_gates ? kept_gates + low * p.batch * p.width : at(gates_);
      loops.gather(o.x, at(x_), p.batch, p.time, p.inputs, low, steps);
      for (size_t i = 0; i < p.segments.size(); i++) {
        const Segment& part = p.segments[i];
        inputs_[chunk != 0][i].run(at(x_), o.w + part.w, gates + part.gates, scratch, o.b + part.w);
      }
      if (p.cell == CellKind::gru_after)
        loops.fill(o.extra, gates + 2 * p.hidden, steps * p.batch, p.hidden, p.width);
      for (int64_t i = 0; i < steps; i++) {
        s.t = low + (p.reverse ? steps - 1 - i : i);
        s.gates = gates + (s.t - low) * p.batch * p.width;
        s.y = b.output<float>(0) + s.t * p.hidden;
        s.c = kept_cells ? kept_cells + s.t * state : at(c_);
        products_[0].run(s.h, b.scratch + packed_[0], s.gates, scratch);
        step(s, b.scratch + packed_[1], scratch);
        s.c_before = s.c;
      }
    }
    std::memcpy(b.output<float>(1), s.h, state * sizeof(float));
    if (p.is_lstm()) std::memcpy(b.output<float>(2), s.c, state * sizeof(float));
  }

 private:
  bool keeps_gates() const { return training_ && !plan_.recompute; }

  void step(const RecurrentStep& s, const void* second, std::byte* scratch) const {
    const RecurrentLoops& loops = recurrent_loops();
    switch (plan_.cell) {
      case CellKind::lstm:
        return loops.lstm(s);
      case CellKind::gru_after:
        return loops.gru_after(s);
      case CellKind::gru:
      case CellKind::mgu:
        loops.gru_gates(s);
        products_[1].run(s.reset, second, s.gates + plan_.first, scratch);
        return loops.gru(s);
      case CellKind::rnn:
        plan_.neuron->apply(s.gates, s.reset, s.rows * s.hidden);
        return loops.rnn(s);
    }
  }

  Plan plan_;
  Chunks chunks_;
  bool training_;
  std::vector<Matmul> inputs_[2], products_;
  size_t packed_[2] = {}, x_, gates_ = 0, h_, c_, reset_, product_, scratch_bytes_;
};

template <bool training>
Offer forward(const Node& node, CellKind cell) {
  PlanOrReason found = plan_of(node, cell, 0);
  if (!found.plan) return Offer::none(found.reason);
  const Plan& p = *found.plan;
  size_t kept = training ? (p.is_lstm() ? 1 : 0) + (p.recompute ? 0 : 1) : 0;
  require_counts(node, 5 + p.states + (p.extra ? 1 : 0), 1 + p.states + kept);
  require_shape(node.out[0], {p.batch, p.time, p.hidden});
  for (int i = 0; i < p.states; i++) require_shape(node.out[1 + i], {p.batch, p.hidden});
  if (training && p.is_lstm()) require_shape(node.out[3], {p.time, p.batch, p.hidden});
  if (training && !p.recompute)
    require_shape(node.out[p.states + kept], {p.time, p.batch, p.width});
  auto kernel = std::make_unique<Forward>(p, training);
  if (!kernel->supported()) return Offer::none("oneDNN has no product of these shapes");
  return Offer(std::move(kernel));
}

template <bool training>
Offer lstm(const Node& node) {
  return forward<training>(node, CellKind::lstm);
}
template <bool training>
Offer gru(const Node& node) {
  bool after = node.attributes.string("reset") == "after";
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
}  // namespace jax_mps::cpu::recurrent

#endif
