// The contest of the recipes for a node on the user's own GPU.
#pragma once

#include "device.h"

namespace jax_mps::metal {

// The index of the recipe to use: the fastest that compiles on this GPU and gives the right numbers
// there; a second form where no first one does. Decided at first use of a node, and remembered on
// disk by GPU and system. Throws ProgramError with the reasons if none serves.
size_t choose(Device& device, const Node& node, const std::vector<Recipe>& candidates);

}  // namespace jax_mps::metal
