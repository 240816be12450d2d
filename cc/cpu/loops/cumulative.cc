// Cumulative sums, products and extrema: a block of columns at a time, row after row.
#include "cumulative.h"

#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

struct Sum {
  template <class A>
  static A combine(A a, A b) {
    return a + b;
  }
};
struct Product {
  template <class A>
  static A combine(A a, A b) {
    return a * b;
  }
};
// NaN wins in both.
struct Max {
  template <class A>
  static A combine(A a, A b) {
    return a > b || a != a ? a : b;
  }
};
struct Min {
  template <class A>
  static A combine(A a, A b) {
    return a < b || a != a ? a : b;
  }
};

// X in memory, A in registers: float sums and products have double ones, so that their rounding
// does not grow along the axis; signed integers wrap around in unsigned ones.
template <class X, class A, class F>
void run(const CumulativeShape& s, const void* from, void* to) {
  constexpr int64_t kColumns = 256;
  auto* x = static_cast<const X*>(from);
  auto* y = static_cast<X*>(to);
  int64_t blocks = (s.after + kColumns - 1) / kColumns;
  parallel(s.before * blocks, s.before * s.n * s.after, [&](int64_t piece) {
    int64_t column = piece % blocks * kColumns;
    int64_t cols = s.after - column < kColumns ? s.after - column : kColumns;
    int64_t first = piece / blocks * s.n * s.after + column;
    A total[kColumns];
    for (int64_t i = 0; i < s.n; i++) {
      int64_t at = first + (s.reverse ? s.n - 1 - i : i) * s.after;
#pragma omp simd
      for (int64_t c = 0; c < cols; c++) {
        A more = static_cast<A>(x[at + c]);
        total[c] = i == 0 ? more : F::combine(total[c], more);
        y[at + c] = static_cast<X>(total[c]);
      }
    }
  });
}

}  // namespace

extern const CumulativeLoops cumulative_loops_table = {
    {run<float, double, Sum>, run<float, double, Product>, run<float, float, Max>,
     run<float, float, Min>},
    {run<int32_t, uint32_t, Sum>, run<int32_t, uint32_t, Product>, run<int32_t, int32_t, Max>,
     run<int32_t, int32_t, Min>},
    {run<uint32_t, uint32_t, Sum>, run<uint32_t, uint32_t, Product>, run<uint32_t, uint32_t, Max>,
     run<uint32_t, uint32_t, Min>}};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
