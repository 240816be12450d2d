// lstm, gru, mgu, rnn over whole sequences, alone or for a gradient to come.
#include <cstring>

#include "cpu/device.h"
#include "general.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu::recurrent {
namespace {

class Forward : public Kernel {
 public:
  Forward(const Plan& plan, bool training) : plan_(plan), chunks_(plan), training_(training) {
    const Plan& p = plan_;
    for (int kind = 0; kind < chunks_.kinds() && !p.whole; kind++)
      for (const Segment& s : p.segments)
        inputs_[kind].emplace_back(chunks_.steps(kind == 0) * p.batch, p.inputs, s.width,
                                   Matmul::Matrix{p.inputs}, Matmul::Matrix{p.columns}, p.width,
                                   Matmul::Options{.bias = true});

    if (p.general) general_.emplace(p, /*backward=*/false);

    Layout layout;
    const int64_t rows = chunks_.largest() * p.batch;
    work_ = general_ ? layout.bytes(general_->bytes())
                     : layout.floats(recurrent_forward().floats(p.shape()));
    if (!p.whole) x_ = layout.floats(rows * p.inputs);
    if (!keeps_gates()) gates_ = layout.floats(rows * p.width);
    c_ = layout.floats(p.batch * p.hidden);
    size_t most = 0;
    for (const auto* list : {&inputs_[0], &inputs_[1]})
      for (const Matmul& m : *list) most = std::max(most, m.scratch_bytes());
    product_ = layout.bytes(most);
    scratch_bytes_ = layout.end();
  }

  bool supported() const {
    for (const auto* list : {&inputs_[0], &inputs_[1]})
      for (const Matmul& m : *list)
        if (!m.supported()) return false;
    return !general_ || general_->supported();
  }
  std::string implementation() const override {
    if (general_) return "steps on " + general_->name() + ", neurons " + isa_name();
    if (plan_.whole) return std::string("inputs and steps in panels ") + isa_name();
    return std::string("steps in panels ") + isa_name() + ", inputs on " + inputs_[0][0].name();
  }
  size_t scratch_bytes() const override { return scratch_bytes_; }

  void run(const Buffers& b) const override {
    const Plan& p = plan_;
    const RecurrentForwardLoops& loops = recurrent_forward();
    const Operands o = operands_of(p, b);
    const int64_t state = p.batch * p.hidden;
    auto at = [&](size_t offset) { return reinterpret_cast<float*>(b.scratch + offset); };
    float* kept_cells = training_ && p.is_lstm() ? b.output<float>(3) : nullptr;
    float* kept_gates =
        keeps_gates() ? b.output<float>(1 + p.states + (p.is_lstm() ? 1 : 0)) : nullptr;

    RecurrentSteps s = steps_of(p, o, at(work_));
    s.cells = kept_cells ? kept_cells : at(c_), s.cells_kept = kept_cells;
    s.y = b.output<float>(0), s.h = b.output<float>(1);
    s.first = p.reverse ? p.time - 1 : 0;
    std::memcpy(s.h, o.h0, state * sizeof(float));
    general_ ? general_->begin(s, o) : loops.begin(s, o.r);
    for (int64_t chunk = 0; chunk < chunks_.count(); chunk++) {
      s.count = chunks_.steps(chunk == 0);
      s.low = p.reverse ? p.time - chunks_.begin(chunk) - s.count : chunks_.begin(chunk);
      s.first = p.reverse ? s.low + s.count - 1 : s.low;
      s.gates = kept_gates ? kept_gates + s.low * p.batch * p.width : at(gates_);
      if (!p.whole)
        recurrent_loops().gather(o.x, at(x_), p.batch, p.time, p.inputs, s.low, s.count);
      for (size_t i = 0; i < inputs_[chunk != 0].size(); i++) {
        const Segment& part = p.segments[i];
        inputs_[chunk != 0][i].run(at(x_), o.w + part.w, s.gates + part.gates, b.scratch + product_,
                                   o.b + part.w);
      }
      general_ ? general_->forward(s) : loops.run(s);
    }
    if (p.is_lstm()) {
      const float* last = kept_cells ? kept_cells + (p.reverse ? 0 : p.time - 1) * state : at(c_);
      std::memcpy(b.output<float>(2), last, state * sizeof(float));
    }
  }

 private:
  bool keeps_gates() const { return training_ && !plan_.recompute; }

  Plan plan_;
  Chunks chunks_;
  bool training_;
  std::optional<GeneralSteps> general_;
  std::vector<Matmul> inputs_[2];
  size_t work_, x_ = 0, gates_ = 0, c_, product_, scratch_bytes_;
};

template <bool training>
Offer forward(const Node& node) {
  PlanOrReason found = plan_of(node);
  if (!found.plan) return Offer::none(found.reason);
  auto kernel = std::make_unique<Forward>(*found.plan, training);
  if (!kernel->supported()) return Offer::none("oneDNN has no product of these shapes");
  return Offer(std::move(kernel));
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
}  // namespace jax_mps::cpu::recurrent

#endif
