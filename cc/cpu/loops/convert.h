// Conversions between float32 and the half-precision storage types, round to nearest even.
#pragma once

#include "cpu/isa.h"

namespace jax_mps::cpu {

struct ConvertLoops {
  void (*from_bf16)(const uint16_t* x, float* y, int64_t n);
  void (*from_f16)(const uint16_t* x, float* y, int64_t n);
  void (*to_bf16)(const float* x, uint16_t* y, int64_t n);
  void (*to_f16)(const float* x, uint16_t* y, int64_t n);
};
JAX_MPS_LOOPS(ConvertLoops, convert)

}  // namespace jax_mps::cpu
