// Which steps run together: neighbours that are chains and touch nothing of one another, such as
// the updates of a network's parameters. One parallel region for all costs as little as for one.
#pragma once

#include <vector>

#include "chain.h"
#include "ir/program.h"

namespace jax_mps::cpu {

// Of each step, how many from it on run together: 1 if it runs alone. `chains` are those of the
// steps, nullptr where there is none.
std::vector<int> batched(const Program& program, const std::vector<const Chain*>& chains);

}  // namespace jax_mps::cpu
