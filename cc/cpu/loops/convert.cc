#include "convert.h"

#include "half.h"
#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

template <class X, class Y, Y (*f)(X)>
void map(const X* x, Y* y, int64_t n) {
  parallel_elements(n, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) y[i] = f(x[i]);
  });
}

}  // namespace

extern const ConvertLoops convert_table = {
    map<uint16_t, float, bf16_to_f32>, map<uint16_t, float, f16_to_f32>,
    map<float, uint16_t, f32_to_bf16>, map<float, uint16_t, f32_to_f16>};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
