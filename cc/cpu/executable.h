// A program with a CPU kernel for every step.
#pragma once

#include "../executable.h"
#include "../kernel.h"

namespace jax_mps::cpu {

class CpuExecutable : public Executable {
 public:
  // Throws ProgramError with the step's reason if the device has no kernel for it.
  CpuExecutable(Program program, size_t text_bytes);

  void run(const void* const* inputs, void* const* outputs) const override;
  std::vector<std::string> implementations() const override;

 private:
  std::vector<std::unique_ptr<Kernel>> kernels_;
  std::vector<std::pair<int, int>> copies_;
  size_t scratch_offset_ = 0, work_bytes_ = 0;
};

}  // namespace jax_mps::cpu
