// The rules that checkers are made of: each throws ProgramError with what must be and what came.
#pragma once

#include "program.h"

namespace jax_mps {

inline void require(bool condition, const std::string& rule) {
  if (!condition) throw ProgramError(rule);
}
inline void require(bool condition, const char* rule) {
  if (!condition) throw ProgramError(rule);
}

inline void require_counts(const Node& node, size_t operands, size_t results) {
  if (node.in.size() == operands && node.out.size() == results) return;
  throw ProgramError("takes " + std::to_string(operands) + " operands and gives " +
                     std::to_string(results) + " results, but has " +
                     std::to_string(node.in.size()) + " and " + std::to_string(node.out.size()));
}

inline void require_shape(const TensorType& type, const std::vector<int64_t>& shape) {
  if (type.shape == shape) return;
  throw ProgramError("a value of type " + type.text() + " must have shape " +
                     TensorType{type.dtype, shape}.text());
}

inline void require_dtype(const TensorType& type, DType dtype) {
  if (type.dtype == dtype) return;
  throw ProgramError("a value of type " + type.text() + " must be " + std::string(name_of(dtype)));
}

inline bool is_floating(const TensorType& type) {
  return type.dtype == DType::f32 || is_half(type.dtype);
}

inline void require_floating(const TensorType& type) {
  if (is_floating(type)) return;
  throw ProgramError("a value of type " + type.text() + " must be f32, bf16 or f16");
}

// Shape and dtype of another value.
inline void require_alike(const TensorType& type, const TensorType& other) {
  require_shape(type, other.shape);
  require_dtype(type, other.dtype);
}

// An attribute that repeats sizes which the types tell, for the op's meaning to know them.
inline void require_sizes(const Node& node, const std::string& name,
                          const std::vector<int64_t>& sizes) {
  if (!node.attributes.has(name) || node.attributes.integers(name) == sizes) return;
  std::string text;
  for (int64_t size : sizes) text.append(text.empty() ? "" : ",").append(std::to_string(size));
  throw ProgramError("attribute '" + name + "' must be [" + text + "]");
}

// The shape of x without its last axis.
inline std::vector<int64_t> rows_of(const TensorType& x) {
  require(x.rank() > 0, "a value without axes has no rows");
  return {x.shape.begin(), x.shape.end() - 1};
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

}  // namespace jax_mps
