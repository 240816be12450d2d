// What the Metal device tells of itself.
#pragma once

#include <map>
#include <string>

namespace jax_mps::metal {

// Its name, its limits and its counts since the start, for `doctor` and tests; empty without one.
std::map<std::string, std::string> information();

}  // namespace jax_mps::metal
