// The instructions of a chain as expressions of MSL.
#pragma once

#include <string>
#include <vector>

#include "chain/code.h"

namespace jax_mps::metal {

// The type of a register: float, int or uint; truth values are 0 and 1 of uint.
std::string register_type(ChainType type);
// The type of an array's elements.
std::string element_type(Storage storage, ChainType type);

// The expression of an instruction on operands of type `on`.
std::string expression(ChainOp op, ChainType on, const std::vector<std::string>& x);

// A constant's bits as a number of its type.
std::string literal(ChainType type, uint32_t bits);

// `name` of type `have` as one of type `want`, bit for bit.
std::string as(const std::string& name, ChainType have, ChainType want);

}  // namespace jax_mps::metal
