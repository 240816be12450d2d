// Functions written by an Assembler, in memory that the machine executes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace jax_mps::cpu {

class MachineCode {
 public:
  // Whether this machine and operating system run what an Assembler writes, and
  // JAX_MPS_MACHINE_CODE=0 in the environment does not keep chains to the loops.
  static bool available();
  // Nothing where the system lends no executable memory.
  static std::unique_ptr<MachineCode> make(const std::vector<uint8_t>& code);
  ~MachineCode();
  MachineCode(const MachineCode&) = delete;
  void* at(size_t offset) const { return static_cast<char*>(pages_) + offset; }

 private:
  MachineCode(void* pages, size_t bytes) : pages_(pages), bytes_(bytes) {}
  void* pages_;
  size_t bytes_;
};

}  // namespace jax_mps::cpu
