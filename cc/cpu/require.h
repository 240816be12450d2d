// Checks that a kernel makes of its node before it trusts the node's shapes: texts are data, and
// may be wrong.
#pragma once

#include "../program.h"

namespace jax_mps::cpu {

inline void require(bool condition, const std::string& rule) {
  if (!condition) throw ProgramError(rule);
}

inline void require_counts(const Node& node, size_t operands, size_t results) {
  require(node.in.size() == operands && node.out.size() == results,
          "takes " + std::to_string(operands) + " operands and gives " + std::to_string(results) +
              " results, but has " + std::to_string(node.in.size()) + " and " +
              std::to_string(node.out.size()));
}

inline void require_shape(const TensorType& type, const std::vector<int64_t>& shape) {
  require(type.shape == shape, "a value of type " + type.text() + " must have shape " +
                                   TensorType{type.dtype, shape}.text());
}

}  // namespace jax_mps::cpu
