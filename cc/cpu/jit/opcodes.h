// Which steps of a chain have machine code, and their instructions.
#pragma once

#include <optional>
#include <utility>

#include "assembler.h"
#include "cpu/loops/chain.h"

namespace jax_mps::cpu {

inline bool is_float(const ChainStep& step) { return step.on == ChainType::f32; }

// Whether a step may be in a segment.
bool has_machine_code(const ChainStep& step);

// Whether its result is a pred that is computed in a mask.
bool gives_mask(const ChainStep& step);

// The instruction of a step of two operands that is nothing but that.
std::optional<Opcode> arithmetic(const ChainStep& step);

// The predicate of vcmpps, and the comparison of integers.
std::optional<std::pair<uint8_t, Compare>> comparison(ChainOp op);

}  // namespace jax_mps::cpu
