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

// Of the `count` results of an op whose unread ones may be left out: where each is among those that
// the node has, or -1.
inline std::vector<int> places_of_results(const Node& node, size_t count) {
  const List* wanted = node.attributes.has("wanted") ? &node.attributes.list("wanted") : nullptr;
  require(!wanted || wanted->size() == count,
          "attribute 'wanted' must have " + std::to_string(count) + " items");
  std::vector<int> places(count, -1);
  size_t made = 0;
  for (size_t i = 0; i < count; i++) {
    const bool* flag = wanted ? std::get_if<bool>(&(*wanted)[i]) : nullptr;
    require(!wanted || flag, "attribute 'wanted' must be a list of true or false");
    if (!wanted || *flag) places[i] = static_cast<int>(made++);
  }
  require(node.out.size() == made,
          "gives " + std::to_string(made) + " results, but has " + std::to_string(node.out.size()));
  return places;
}

}  // namespace jax_mps::cpu
