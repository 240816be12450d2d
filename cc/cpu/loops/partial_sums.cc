#include "partial_sums.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

void add(const float* const* from, int count, float* to, bool adds, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 256;
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    float sum[kBlock];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) sum[i] = from[0][at + i];
    for (int part = 1; part < count; part++)
#pragma omp simd
      for (int64_t i = 0; i < n; i++) sum[i] += from[part][at + i];
    if (adds)
#pragma omp simd
      for (int64_t i = 0; i < n; i++) sum[i] += to[at + i];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[at + i] = sum[i];
  }
}

}  // namespace

extern const PartialSumsLoops partial_sums_loops_table = {add};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
