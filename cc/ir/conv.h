// What conv(x, w[, b]), conv_data_gradient(dy, w) and conv_weight_gradient(x, dy) say.
#pragma once

#include "windows.h"

namespace jax_mps {

struct ConvNode {
  TensorType x, w, y;  // the three arrays, whichever of them the node computes
  Windows windows;
  int64_t groups;
  bool highest;    // plain sums are asked for
  bool half_sums;  // float16 may be summed in float16
};

// ProgramError with the rule that the shapes or the attributes break.
ConvNode conv_of(const Node& node);

}  // namespace jax_mps
