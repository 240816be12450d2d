// The reductions of chains: of the columns and of the rows of a tile.
#include "chain_reduce.h"

#include <bit>

#include "lanes.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

template <class X>
struct Sum {
  static constexpr X identity = 0;
  template <class V>
  static void combine(V& a, const V& b) {
    a += b;
  }
};
template <class X>
struct Product {
  static constexpr X identity = 1;
  template <class V>
  static void combine(V& a, const V& b) {
    a *= b;
  }
};

// Of integers; each is one value or a vector of them.
template <class X, X least>
struct Max {
  static constexpr X identity = least;
  template <class V>
  static void combine(V& a, const V& b) {
    a = a > b ? a : b;
  }
};
template <class X, X greatest>
struct Min {
  static constexpr X identity = greatest;
  template <class V>
  static void combine(V& a, const V& b) {
    a = a < b ? a : b;
  }
};

// The bits of floats, one or a vector of them.
template <class V>
struct BitsOf {
  typedef int32_t Type __attribute__((vector_size(sizeof(V))));
};
template <>
struct BitsOf<float> {
  using Type = int32_t;
};

// NaN wins in both, as in lax.max and lax.min, and of two zeros +0 is the greater: p and q differ
// in zeros' signs alone, or one is NaN.
struct MaxF32 {
  static constexpr float identity = -__builtin_inff();
  template <class V>
  static void combine(V& a, const V& b) {
    using Bits = typename BitsOf<V>::Type;
    V greater = a > b ? a : b, other = b > a ? b : a;
    Bits p = std::bit_cast<Bits>(greater), q = std::bit_cast<Bits>(other);
    a = std::bit_cast<V>((p & q) | ((p | q) & 0x7fffffff));
  }
};
struct MinF32 {
  static constexpr float identity = __builtin_inff();
  template <class V>
  static void combine(V& a, const V& b) {
    using Bits = typename BitsOf<V>::Type;
    V less = a < b ? a : b, other = b < a ? b : a;
    a = std::bit_cast<V>(std::bit_cast<Bits>(less) | std::bit_cast<Bits>(other));
  }
};

template <class X, class F>
void fill(void* y, int64_t n) {
  auto* out = static_cast<X*>(y);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = F::identity;
}

template <class X, class F>
void columns(const void* x, void* y, int64_t rows, int64_t cols) {
  auto* in = static_cast<const X*>(x);
  auto* out = static_cast<X*>(y);
  for (int64_t r = 0; r < rows; r++)
#pragma omp simd
    for (int64_t c = 0; c < cols; c++) F::combine(out[c], in[r * cols + c]);
}

// Vectors of the language's extension, because the compiler does not vectorise a maximum in which
// NaN wins; of the machine's width, because it compares wider ones number by number.
template <class X, class F>
X total(const X* x, int64_t n) {
  typedef X Vector __attribute__((vector_size(kMaxLanes * sizeof(X))));
  constexpr int kChains = 4;  // of combinations that do not wait for one another
  constexpr int64_t kStep = kChains * kMaxLanes;
  X result = F::identity;
  int64_t i = 0;
  if (n >= kStep) {
    Vector sums[kChains];
    for (int k = 0; k < kChains; k++) sums[k] = load<Vector>(x + k * kMaxLanes);
    for (i = kStep; i + kStep <= n; i += kStep)
      for (int k = 0; k < kChains; k++) F::combine(sums[k], load<Vector>(x + i + k * kMaxLanes));
    for (; i + kMaxLanes <= n; i += kMaxLanes) F::combine(sums[0], load<Vector>(x + i));
    for (int k = 1; k < kChains; k++) F::combine(sums[0], sums[k]);
    X lanes[kMaxLanes];
    store(lanes, sums[0]);
    for (int width = kMaxLanes / 2; width > 0; width /= 2)
      for (int lane = 0; lane < width; lane++) F::combine(lanes[lane], lanes[lane + width]);
    result = lanes[0];
  }
  for (; i < n; i++) F::combine(result, x[i]);
  return result;
}

template <class X, class F>
void rows(const void* x, void* y, int64_t rows, int64_t cols) {
  auto* in = static_cast<const X*>(x);
  auto* out = static_cast<X*>(y);
  for (int64_t r = 0; r < rows; r++) F::combine(out[r], total<X, F>(in + r * cols, cols));
}

template <class X, class F>
constexpr ReduceFns functions() {
  return {fill<X, F>, columns<X, F>, rows<X, F>};
}

}  // namespace

ReduceFns find_reduction(Reduce reduce, ChainType type) {
  switch (type) {
    case ChainType::f32:
      if (reduce == Reduce::sum) return functions<float, Sum<float>>();
      if (reduce == Reduce::prod) return functions<float, Product<float>>();
      return reduce == Reduce::max ? functions<float, MaxF32>() : functions<float, MinF32>();
    case ChainType::s32:
      if (reduce == Reduce::sum) return functions<uint32_t, Sum<uint32_t>>();
      if (reduce == Reduce::prod) return functions<uint32_t, Product<uint32_t>>();
      return reduce == Reduce::max ? functions<int32_t, Max<int32_t, INT32_MIN>>()
                                   : functions<int32_t, Min<int32_t, INT32_MAX>>();
    default:
      if (reduce == Reduce::sum) return functions<uint32_t, Sum<uint32_t>>();
      if (reduce == Reduce::prod) return functions<uint32_t, Product<uint32_t>>();
      return reduce == Reduce::max ? functions<uint32_t, Max<uint32_t, 0>>()
                                   : functions<uint32_t, Min<uint32_t, UINT32_MAX>>();
  }
}

}  // namespace jax_mps::cpu::JAX_MPS_ISA
