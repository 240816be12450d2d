// The CPU device as the rest of the package sees it.
#pragma once

#include "executable.h"

namespace jax_mps::cpu {

// Throws ProgramError with the step's reason if the device has no kernel for it.
std::shared_ptr<const Executable> compile(Program program, size_t text_bytes);

}  // namespace jax_mps::cpu
