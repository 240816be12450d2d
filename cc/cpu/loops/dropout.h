// Dropout with the mask of jax.random.bernoulli: element i's bits are threefry2x32 of the counter
// i.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

struct DropoutLoops {
  // y = the first 23 bits of the element's draw < threshold ? x / keep : 0
  void (*apply)(const float* x, float* y, int64_t n, const uint32_t* key, uint32_t threshold,
                float keep);
  // The draws themselves.
  void (*bits)(uint32_t* y, int64_t n, const uint32_t* key);
  // The mask alone, 0 or 1.
  void (*mask)(uint8_t* mask, int64_t n, const uint32_t* key, uint32_t threshold);
  // y = mask ? x / keep : 0 over the axes of `sizes`; the mask runs along those that are `masked`,
  // and no two neighbours are alike.
  void (*broadcast)(const float* x, const uint8_t* mask, float* y, const int64_t* sizes,
                    const uint8_t* masked, int rank, float keep);
};
JAX_MPS_LOOPS(DropoutLoops, dropout_loops)

}  // namespace jax_mps::cpu
