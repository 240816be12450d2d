// The text of kernels/*.metal, embedded by embed.py with their headers in place.
#pragma once

#include <string>
#include <string_view>

namespace jax_mps::metal {

std::string_view source(std::string_view file);  // "neuron"; ProgramError if there is none
std::string source_version();                    // changes with any of the texts

}  // namespace jax_mps::metal
