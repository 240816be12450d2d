#include "general.h"

#ifdef JAX_MPS_ONEDNN

#include <cstring>

namespace jax_mps::cpu::recurrent {

GeneralSteps::GeneralSteps(const Plan& plan, bool backward)
    : plan_(plan),
      squares_(!plan.matrix     ? 0
               : plan.is_lstm() ? 3
                                : 1) {
  const Plan& p = plan_;
  using Matrix = Matmul::Matrix;
  const Matmul::Options add{.accumulate = true, .packed = true}, set{.packed = true};
  const Matrix rows{p.hidden}, dgates{p.dgates_stride()};
  const int64_t n = p.hidden;
  if (backward) {
    const Matrix across{p.columns, true};
    state_.emplace(p.batch, p.first, n, dgates, across, n, add);
    if (p.second()) second_.emplace(p.batch, p.second(), n, dgates, across, n, set);
    if (squares_) square_.emplace(p.batch, n, n, dgates, Matrix{n, true}, n, add);
  } else {
    const Matrix along{p.columns};
    state_.emplace(p.batch, n, p.first, rows, along, p.width, add);
    if (p.second()) second_.emplace(p.batch, n, p.second(), rows, along, p.width, add);
    if (squares_) square_.emplace(p.batch, n, n, rows, Matrix{n}, p.width, add);
  }
  Layout layout;
  packed_state_ = layout.bytes(state_->packed_bytes());
  packed_second_ = layout.bytes(second_ ? second_->packed_bytes() : 0);
  packed_squares_ = layout.bytes(squares_ ? squares_ * square_->packed_bytes() : 0);
  size_t scratch = 0;
  for (const auto* m : {&state_, &second_, &square_})
    if (*m) scratch = std::max(scratch, (*m)->scratch_bytes());
  product_ = layout.bytes(scratch);
  loops_ = layout.floats(recurrent_general().floats(p.shape()));
  reset_ = layout.floats(p.batch * n);
  update_ = layout.floats(p.batch * n);
  after_ = layout.floats(p.batch * p.dgates_stride());
  bytes_ = layout.end();
}

bool GeneralSteps::supported() const {
  for (const auto* m : {&state_, &second_, &square_})
    if (*m && !(*m)->supported()) return false;
  return true;
}

void GeneralSteps::begin(const RecurrentSteps& s, const Operands& o) const {
  state_->pack(o.r, at(s, packed_state_));
  if (second_) second_->pack(o.r + plan_.first, at(s, packed_second_));
  for (int i = 0; i < squares_; i++)
    square_->pack(o.extra + i * plan_.hidden * plan_.hidden,
                  at(s, packed_squares_ + i * square_->packed_bytes()));
}

void GeneralSteps::square(const RecurrentSteps& s, int i, const float* a, float* c) const {
  square_->run(a, at(s, packed_squares_ + i * square_->packed_bytes()), c,
               reinterpret_cast<std::byte*>(at(s, product_)));
}

void GeneralSteps::forward(RecurrentSteps s) const {
  const Plan& p = plan_;
  const RecurrentGeneralLoops& loops = recurrent_general();
  const int64_t n = p.hidden, state = p.batch * n;
  std::byte* scratch = reinterpret_cast<std::byte*>(at(s, product_));
  s.reset = at(s, reset_), s.update = p.matrix ? at(s, update_) : nullptr;
  for (int64_t i = 0; i < s.count; i++) {
    const int64_t t = s.first + (p.reverse ? -i : i);
    float* gates = s.gates + (t - s.low) * p.batch * p.width;
    if (p.cell == Cell::gru_after)
      recurrent_loops().fill(s.extra, gates + 2 * n, p.batch, n, p.width);
    state_->run(s.h, at(s, packed_state_), gates, scratch);
    if (p.is_lstm() && squares_) {
      const int64_t earlier = t + (p.reverse ? 1 : -1);
      const bool is_first = earlier < 0 || earlier >= p.time;
      const float* c = is_first ? s.c0 : s.cells + (s.cells_kept ? earlier * state : 0);
      square(s, 0, c, gates);
      square(s, 1, c, gates + n);
    }
    loops.forward(s, t, 0, at(s, loops_));
    if (second_) second_->run(s.reset, at(s, packed_second_), gates + p.first, scratch);
    if (squares_ && p.is_lstm())
      square(s, 2, s.cells + (s.cells_kept ? t * state : 0), gates + 3 * n);
    if (squares_ && !p.is_lstm()) square(s, 0, s.update, gates + p.first);
    loops.forward(s, t, 1, at(s, loops_));
  }
}

void GeneralSteps::from_step_after(const RecurrentSteps& s, int64_t t) const {
  const int64_t after = t + (plan_.reverse ? -1 : 1);
  const bool here = after >= s.low && after < s.low + s.count;
  const int64_t step = plan_.batch * plan_.dgates_stride();
  const float* d = here ? s.dgates + (after - s.low) * step : at(s, after_);
  state_->run(d, at(s, packed_state_), s.dh, reinterpret_cast<std::byte*>(at(s, product_)));
  if (!plan_.is_lstm() || !squares_) return;
  square(s, 0, d, s.dc);
  square(s, 1, d + plan_.hidden, s.dc);
}

void GeneralSteps::backward(const RecurrentSteps& s, bool is_first) const {
  const Plan& p = plan_;
  const RecurrentGeneralLoops& loops = recurrent_general();
  const int64_t n = p.hidden, step = p.batch * p.dgates_stride();
  float *dreset = at(s, reset_), *dupdate = p.matrix ? at(s, update_) : nullptr, *d = nullptr;
  for (int64_t i = 0; i < s.count; i++) {
    const int64_t t = s.first + (p.reverse ? i : -i);
    if (!is_first || i > 0) from_step_after(s, t);
    loops.backward(s, t, 0, nullptr, nullptr, at(s, loops_));
    d = s.dgates + (t - s.low) * step;
    if (second_)
      second_->run(d + p.first, at(s, packed_second_), dreset,
                   reinterpret_cast<std::byte*>(at(s, product_)));
    if (squares_ && p.is_lstm()) square(s, 2, d + 3 * n, s.dc);
    if (squares_ && !p.is_lstm()) {
      std::memset(dupdate, 0, p.batch * n * sizeof(float));
      square(s, 0, d + p.first, dupdate);
    }
    loops.backward(s, t, 1, dreset, dupdate, at(s, loops_));
  }
  std::memcpy(at(s, after_), d, step * sizeof(float));  // for the next of these calls
}

void GeneralSteps::end(const RecurrentSteps& s) const {
  RecurrentSteps none = s;
  none.count = 0;
  from_step_after(none, none.first);
}

}  // namespace jax_mps::cpu::recurrent

#endif
