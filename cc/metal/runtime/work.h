// What launches take, by a rough estimate, and how much of it one command buffer may hold: macOS
// ends a command buffer that keeps the GPU from the screen for too long.
#pragma once

#include <atomic>
#include <cstddef>
#include <vector>

#include "metal/recipe.h"

namespace jax_mps::metal {

// Of one launch, on the slowest GPU with the kernels' language: the larger of its arithmetic, its
// memory traffic and what one of its threads has to do by itself.
double seconds_of(const Dispatch& dispatch);

// A part of a launch's grid, from a threadgroup on.
struct Piece {
  Dispatch::Size first{0, 0, 0}, groups;
};
// The launch whole, or cut along its longest axis into pieces of at most `most` seconds, where its
// kernel can be cut and has the threadgroups for it.
std::vector<Piece> pieces_of(const Dispatch& dispatch, double seconds, double most);

// The most seconds of one command buffer; a launch that takes longer has one for itself.
class Budget {
 public:
  Budget();  // 0.1, or JAX_MPS_METAL_BUFFER_MS
  double seconds() const { return seconds_; }
  // A quarter of it from now on, after a time-out with `tried`; false if that was the least.
  bool lower(double tried);

 private:
  std::atomic<double> seconds_;
};

}  // namespace jax_mps::metal
