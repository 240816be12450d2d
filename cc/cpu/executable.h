// A program with a CPU kernel for every step.
#pragma once

#include "../executable.h"
#include "steps.h"

namespace jax_mps::cpu {

class CpuExecutable : public Executable {
 public:
  // Throws ProgramError with the step's reason if the device has no kernel for it.
  CpuExecutable(Program program, size_t text_bytes);

  void run(const void* const* inputs, void* const* outputs) const override;
  // One name a step, a loop's own before its body's.
  std::vector<std::string> implementations() const override { return steps_.implementations(); }

 private:
  Steps steps_;
};

}  // namespace jax_mps::cpu
