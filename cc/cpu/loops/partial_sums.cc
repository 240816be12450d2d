#include "partial_sums.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

void add(const float* const* from, int count, int64_t first, float* to, bool adds, int64_t n) {
  constexpr int64_t kBlock = 256;
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t size = n - at < kBlock ? n - at : kBlock;
    float sum[kBlock];
#pragma omp simd
    for (int64_t i = 0; i < size; i++) sum[i] = from[0][first + at + i];
    for (int part = 1; part < count; part++)
#pragma omp simd
      for (int64_t i = 0; i < size; i++) sum[i] += from[part][first + at + i];
    if (adds)
#pragma omp simd
      for (int64_t i = 0; i < size; i++) sum[i] += to[at + i];
#pragma omp simd
    for (int64_t i = 0; i < size; i++) to[at + i] = sum[i];
  }
}

}  // namespace

extern const PartialSumsLoops partial_sums_loops_table = {add};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
