// dot(left, right) {batch, contract} as a product of matrices: lax.dot_general, result axes batch,
// left's free, right's free.
#pragma once

#include "program.h"

namespace jax_mps {

using Axes = std::vector<int64_t>;

// One side as a strided array [batch, rows, cols]; the axes of each group lie in the order given.
struct Side {
  int64_t size[3], stride[3];
  bool collapses = true;  // each group of axes steps as one
  Axes order;             // all axes, in the order of the groups
};

struct Product {
  Side left, right;  // [batch, m, k] and [batch, k, n]
  Axes shape;        // of the result
  int64_t batch() const { return left.size[0]; }
  int64_t m() const { return left.size[1]; }
  int64_t k() const { return left.size[2]; }
  int64_t n() const { return right.size[2]; }
};

Axes row_major(const Axes& shape);
Axes strides_of(const TensorType& type);  // as it lies in memory

// Throws ProgramError with the rule that the node breaks.
Product product_of(const Node& node);

}  // namespace jax_mps
