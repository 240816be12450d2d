// The steps of cells with any neurons, with peepholes that are matrices and of the GRU of two
// matrices: products of a step on oneDNN, and between them the loops of recurrent_general.h.
#pragma once

#include "plan.h"

#ifdef JAX_MPS_ONEDNN

#include "cpu/loops/recurrent_general.h"

namespace jax_mps::cpu::recurrent {

class GeneralSteps {
 public:
  GeneralSteps(const Plan& plan, bool backward);

  bool supported() const;
  size_t bytes() const { return bytes_; }  // of work
  std::string name() const { return state_->name(); }

  // As recurrent_steps.h has them: s.work holds bytes().
  void begin(const RecurrentSteps& s, const Operands& o) const;
  void forward(RecurrentSteps s) const;
  void backward(const RecurrentSteps& s, bool is_first) const;
  void end(const RecurrentSteps& s) const;  // adds the products of the last step to dh and dc

 private:
  float* at(const RecurrentSteps& s, size_t offset) const {
    return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(s.work) + offset);
  }
  // c += a times packed matrix i of the square ones.
  void square(const RecurrentSteps& s, int i, const float* a, float* c) const;
  void from_step_after(const RecurrentSteps& s, int64_t t) const;

  Plan plan_;
  std::optional<Matmul> state_, second_, square_;
  int squares_;  // matrices of peepholes, or the update gate's
  size_t packed_state_, packed_second_, packed_squares_, product_, loops_, reset_, update_, after_;
  size_t bytes_;
};

}  // namespace jax_mps::cpu::recurrent
#endif
