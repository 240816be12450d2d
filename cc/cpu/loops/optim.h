// Optimizers over all leaves of a parameter tree at once.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

enum class OptimRule {
  sgd,
  sgd_momentum,
  sgd_nesterov,
  adam,
  amsgrad,
  rmsprop,
  rmsprop_momentum,
  rmsprop_nesterov,
  rmsprop_centered,
  rmsprop_centered_momentum,
  rmsprop_centered_nesterov,
};
enum class Regularization { none, l1, l2 };
enum class Storage : uint8_t { f32, bf16, f16 };

constexpr int64_t kOptimPiece =
    2048;  // elements: the streams of one piece stay in the first two caches
constexpr int kMaxOptimStreams = 5;  // gradients, parameters, three states

// Operand 0 is the vector of hyperparameters; leaf i of stream k is operand 1 + k * leaves + i, and
// likewise result k * leaves + i. A result may be the memory of an operand.
struct OptimWork {
  OptimRule rule;
  Regularization regularization;
  bool reads_parameters, apply;  // apply: results are new parameters in place of updates
  int64_t leaves, elements;      // elements of all leaves together
  int inputs, outputs;           // streams
  const int64_t* sizes;          // of each leaf
  const int64_t* first_piece;    // of each leaf, and the number of all pieces at the end
  const Storage* in_storage;     // of each operand after the first
  const Storage* out_storage;    // of each result
};

struct OptimLoops {
  void (*run)(const OptimWork& work, const void* const* in, void* const* out);
};
JAX_MPS_LOOPS(OptimLoops, optim_loops)

}  // namespace jax_mps::cpu
