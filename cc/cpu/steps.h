// The steps of a program, or of a loop's body, with a kernel each.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cpu/chain/batched.h"

namespace jax_mps::cpu {

class Steps {
 public:
  // Keeps a reference to the program. Throws ProgramError with every step's reason if there is no
  // kernel for it.
  explicit Steps(const Program& program);

  size_t memory_bytes() const { return memory_bytes_; }  // the arena and the kernels' scratch
  // Runs them in order. `memory` is 64-byte aligned. Safe to call from many threads at once, each
  // with memory of its own.
  void run(const void* const* inputs, void* const* outputs, std::byte* memory) const;
  std::vector<std::string> implementations()
      const;  // one name a step, a loop's own before its body's

 private:
  void run_batched(size_t first, void* const* address, std::byte* scratch) const;

  const Program& program_;
  std::vector<std::unique_ptr<Kernel>> kernels_;
  std::vector<const Chain*> chains_;         // those that may run together
  std::vector<int> batched_;                 // of each step, how many from it on run together
  std::vector<std::pair<int, int>> copies_;  // outputs that no step writes: (value, output)
  size_t scratch_offset_ = 0, memory_bytes_ = 0;
};

}  // namespace jax_mps::cpu
