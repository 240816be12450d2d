// Softmax, its logarithm, and cross-entropy against it, over each row of a [rows, classes] array.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

// What the classes of a row should be: exactly one of `index` and `dense` is not null.
struct Labels {
  const int32_t* index;  // [rows]; outside [0, classes) the loss and the gradient are NaN
  const float* dense;    // [rows, classes]
  float smoothing;       // t (1 - smoothing) + smoothing / classes takes the place of t
};

struct SoftmaxLoops {
  // y = exp(x) / sum exp(x), or its logarithm.
  void (*softmax)(bool log, const float* x, float* y, int64_t rows, int64_t classes);
  // dx = y (dy - sum dy y), or dx = dy - exp(y) sum dy.
  void (*gradient)(bool log, const float* dy, const float* y, float* dx, int64_t rows,
                   int64_t classes);
  // loss = -sum t (x - maximum - log_sum), log_sum = log sum exp(x - maximum): two numbers, because
  // their sum would lose digits of large logits.
  void (*cross_entropy)(const float* x, const Labels& labels, float* loss, float* maximum,
                        float* log_sum, int64_t rows, int64_t classes);
  // dx = dloss (exp(x - maximum - log_sum) sum t - t)
  void (*cross_entropy_gradient)(const float* dloss, const float* x, const Labels& labels,
                                 const float* maximum, const float* log_sum, float* dx,
                                 int64_t rows, int64_t classes);
};
JAX_MPS_LOOPS(SoftmaxLoops, softmax_loops)

}  // namespace jax_mps::cpu
