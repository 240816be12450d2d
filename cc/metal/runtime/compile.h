// The Metal device as the rest of the package sees it.
#pragma once

#include "executable.h"

namespace jax_mps::metal {

// Whether this machine has a Metal device.
bool available();

// Throws ProgramError with the step's reason if the device has no kernel for it.
std::shared_ptr<const Executable> compile(Program program, size_t text_bytes);

// Drops the memory that waits for reuse.
void release_pool();

}  // namespace jax_mps::metal
