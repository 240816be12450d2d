// What Metal Shading Language needs to be CUDA C++: its types, functions and SIMD-groups. Words
// such as `device` are the translator's business. A SIMD-group is a warp, a threadgroup a block.
#pragma once
#include <stdint.h>

#include <type_traits>

#define MSL __device__ __forceinline__

typedef unsigned char uchar;

namespace msl {

// Storage of 16 bits: arithmetic is that of float, rounded, which for one operation is exact.
template <class Format>
struct Short {
  uint16_t bits;
  Short() = default;
  template <class A, class = std::enable_if_t<std::is_arithmetic_v<A>>>
  MSL explicit Short(A x) : bits(Format::narrow(float(x))) {}
  template <class Other>
  MSL explicit Short(Short<Other> x) : bits(Format::narrow(float(x))) {}
  MSL operator float() const { return Format::wide(bits); }
  friend MSL Short operator+(Short a, Short b) { return Short(float(a) + float(b)); }
  friend MSL Short operator-(Short a, Short b) { return Short(float(a) - float(b)); }
  friend MSL Short operator*(Short a, Short b) { return Short(float(a) * float(b)); }
  friend MSL Short operator/(Short a, Short b) { return Short(float(a) / float(b)); }
  friend MSL Short operator-(Short a) { return Short(-float(a)); }
  template <class A>
  MSL Short& operator+=(A x) {
    return *this = Short(float(*this) + float(x));
  }
  template <class A>
  MSL Short& operator=(A x) {
    static_assert(std::is_arithmetic_v<A>);
    bits = Format::narrow(float(x));
    return *this;
  }
};
struct HalfFormat {
  static MSL uint16_t narrow(float x) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
  }
  static MSL float wide(uint16_t bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
};
struct BfloatFormat {
  static MSL uint16_t narrow(float x) {
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
  }
  static MSL float wide(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }
};

namespace metal {

using half = Short<HalfFormat>;
using bfloat = Short<BfloatFormat>;

// Without swizzles.
template <class T, int N>
struct vec;
#define MSL_VECTOR(N, ...)                                   \
  template <class T>                                         \
  struct vec<T, N> {                                         \
    T __VA_ARGS__;                                           \
    MSL T& operator[](int i) { return (&x)[i]; }             \
    MSL const T& operator[](int i) const { return (&x)[i]; } \
  };                                                         \
  using float##N = vec<float, N>;                            \
  using half##N = vec<half, N>;                              \
  using bfloat##N = vec<bfloat, N>;                          \
  using int##N = vec<int, N>;                                \
  using uint##N = vec<uint32_t, N>;                          \
  using ushort##N = vec<uint16_t, N>;                        \
  using ulong##N = vec<uint64_t, N>;
MSL_VECTOR(2, x, y)
MSL_VECTOR(3, x, y, z)
MSL_VECTOR(4, x, y, z, w)
#undef MSL_VECTOR

#define MSL_UNARY(name, function) \
  MSL float name(float x) { return function(x); }
#define MSL_BINARY(name, function) \
  MSL float name(float x, float y) { return function(x, y); }
#define MSL_MATH                 \
  MSL_UNARY(exp, expf)           \
  MSL_UNARY(exp2, exp2f)         \
  MSL_UNARY(exp10, exp10f)       \
  MSL_UNARY(log, logf)           \
  MSL_UNARY(log2, log2f)         \
  MSL_UNARY(log10, log10f)       \
  MSL_UNARY(sqrt, sqrtf)         \
  MSL_UNARY(rsqrt, 1.0f / sqrtf) \
  MSL_UNARY(sin, sinf)           \
  MSL_UNARY(cos, cosf)           \
  MSL_UNARY(tan, tanf)           \
  MSL_UNARY(sinh, sinhf)         \
  MSL_UNARY(cosh, coshf)         \
  MSL_UNARY(tanh, tanhf)         \
  MSL_UNARY(asin, asinf)         \
  MSL_UNARY(acos, acosf)         \
  MSL_UNARY(atan, atanf)         \
  MSL_UNARY(asinh, asinhf)       \
  MSL_UNARY(acosh, acoshf)       \
  MSL_UNARY(atanh, atanhf)       \
  MSL_UNARY(fabs, fabsf)         \
  MSL_UNARY(floor, floorf)       \
  MSL_UNARY(ceil, ceilf)         \
  MSL_UNARY(trunc, truncf)       \
  MSL_UNARY(round, roundf)       \
  MSL_UNARY(rint, rintf)         \
  MSL_BINARY(pow, powf)          \
  MSL_BINARY(atan2, atan2f)      \
  MSL_BINARY(fmod, fmodf)        \
  MSL_BINARY(fmin, fminf)        \
  MSL_BINARY(fmax, fmaxf)        \
  MSL_BINARY(copysign, copysignf)
MSL_MATH
namespace precise {
MSL_MATH
}
namespace fast {
MSL_MATH
}
#undef MSL_MATH
#undef MSL_UNARY
#undef MSL_BINARY
MSL float fma(float a, float b, float c) { return fmaf(a, b, c); }
MSL bool isnan(float x) { return x != x; }
MSL bool isinf(float x) { return fabsf(x) == INFINITY; }
MSL bool isfinite(float x) { return fabsf(x) < INFINITY; }
template <class T>
MSL T abs(T x) {
  return x < T(0) ? -x : x;
}
// NaN loses, as in fmin and fmax.
template <class A, class B>
MSL auto max(A a, B b) {
  using T = decltype(a + b);
  T x = T(a), y = T(b);
  return x != x ? y : (x < y ? y : x);
}
template <class A, class B>
MSL auto min(A a, B b) {
  using T = decltype(a + b);
  T x = T(a), y = T(b);
  return x != x ? y : (y < x ? y : x);
}
template <class T>
MSL T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
template <class T>
MSL T select(T no, T yes, bool condition) {
  return condition ? yes : no;
}
template <class To, class From>
MSL To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: types of equal size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
MSL mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

}  // namespace metal

MSL uint32_t thread_index() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
MSL uint32_t lane() { return thread_index() % 32; }
// The lanes of this SIMD-group; that all of them come to an exchange is what synccheck checks.
MSL uint32_t lanes() {
  const uint32_t count = blockDim.x * blockDim.y * blockDim.z;
  const uint32_t rest = count - thread_index() / 32 * 32;
  return rest >= 32 ? 0xffffffffu : (1u << rest) - 1;
}

template <class T>
MSL T shuffle(T value, uint32_t from) {
  static_assert(sizeof(T) <= 4);
  uint32_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = __shfl_sync(lanes(), bits, int(from));
  memcpy(&value, &bits, sizeof(T));
  return value;
}

namespace metal {

MSL void threadgroup_barrier(mem_flags) { __syncthreads(); }
MSL void simdgroup_barrier(mem_flags) { __syncwarp(lanes()); }

template <class T>
MSL T simd_shuffle(T value, uint16_t from) {
  return shuffle(value, from);
}
template <class T>
MSL T simd_broadcast(T value, uint16_t from) {
  return shuffle(value, from);
}
template <class T>
MSL T simd_shuffle_xor(T value, uint16_t mask) {
  return shuffle(value, lane() ^ mask);
}
// Lanes at the end, which have no partner, keep their value.
template <class T>
MSL T simd_shuffle_up(T value, uint16_t by) {
  return shuffle(value, lane() < by ? lane() : lane() - by);
}
template <class T>
MSL T simd_shuffle_down(T value, uint16_t by) {
  return shuffle(value, lane() + by > 31 ? lane() : lane() + by);
}
// Lanes are combined in pairs at growing distance; absent ones do not count.
#define MSL_REDUCE(name, expression)                                      \
  template <class T>                                                      \
  MSL T name(T a) {                                                       \
    for (uint32_t step = 1; step < 32; step *= 2) {                       \
      const T b = shuffle(a, lane() ^ step);                              \
      if (lanes() >> ((lane() ^ step) & ~(step - 1)) & 1) a = expression; \
    }                                                                     \
    return shuffle(a, 0);                                                 \
  }
MSL_REDUCE(simd_sum, a + b)
MSL_REDUCE(simd_product, a* b)
MSL_REDUCE(simd_max, max(a, b))
MSL_REDUCE(simd_min, min(a, b))
#undef MSL_REDUCE
MSL bool simd_any(bool x) { return __any_sync(lanes(), x); }
MSL bool simd_all(bool x) { return __all_sync(lanes(), x); }

// Two elements in each lane, in the mapping that Apple's GPUs show. The product is emulated by
// exchanges between lanes, in float.
template <class T, int Rows, int Columns>
struct simdgroup_matrix {
  static_assert(Rows == 8 && Columns == 8, "simdgroup_matrix: 8 x 8 only");
  T at[2];
  static MSL uint32_t row() { return (lane() / 4 & 4) + lane() / 2 % 4; }
  static MSL uint32_t column() { return (lane() / 4 & 2) * 2 + lane() % 2 * 2; }
  // The lane that holds an element.
  static MSL uint32_t holder(uint32_t row, uint32_t column) {
    return (row & 4) * 4 + row % 4 * 2 + (column & 4) * 2 + column % 4 / 2;
  }
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <class T, int Rows, int Columns>
MSL simdgroup_matrix<T, Rows, Columns> make_filled_simdgroup_matrix(T value) {
  return {value, value};
}
template <class T>
MSL void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* from, uint64_t stride = 8) {
  for (int i = 0; i < 2; i++) m.at[i] = from[m.row() * stride + m.column() + i];
  __syncwarp(lanes());
}
template <class T>
MSL void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, T* to, uint64_t stride = 8) {
  for (int i = 0; i < 2; i++) to[m.row() * stride + m.column() + i] = m.at[i];
  __syncwarp(lanes());
}
template <class D, class A, class B, class C>
MSL void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d,
                                       const simdgroup_matrix<A, 8, 8>& a,
                                       const simdgroup_matrix<B, 8, 8>& b,
                                       const simdgroup_matrix<C, 8, 8>& c) {
  float sum[2] = {float(c.at[0]), float(c.at[1])};
#pragma unroll
  for (uint32_t k = 0; k < 8; k++) {
    const float left = shuffle(float(a.at[k % 2]), a.holder(a.row(), k));
#pragma unroll
    for (int i = 0; i < 2; i++) sum[i] += left * shuffle(float(b.at[i]), b.holder(k, b.column()));
  }
  d.at[0] = D(sum[0]);
  d.at[1] = D(sum[1]);
}

enum memory_order { memory_order_relaxed };
template <class T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint32_t>;
using atomic_float = atomic<float>;
template <class T, class B>
MSL T atomic_fetch_add_explicit(atomic<T>* at, B x, memory_order) {
  return atomicAdd(&at->value, T(x));
}
template <class T>
MSL T atomic_load_explicit(const atomic<T>* at, memory_order) {
  return *const_cast<const volatile T*>(&at->value);
}
template <class T, class B>
MSL void atomic_store_explicit(atomic<T>* at, B x, memory_order) {
  atomicExch(&at->value, T(x));
}

}  // namespace metal

// The arguments of a launch, by their slots: memory of buffers and constants, and where in the
// dynamic shared memory a [[threadgroup(i)]] begins.
constexpr int kSlots = 31;
struct Launch {
  char* buffer[kSlots];
  uint32_t threadgroup[kSlots];
};

enum Kind {
  kBuffer,
  kThreadgroup,
  kPosition,
  kLocal,
  kGroup,
  kGroups,
  kGroupSize,
  kFullSize,
  kGrid,
  kIndex,
  kLane,
  kSimd,
  kSimds,
  kSimdWidth
};
struct Where {
  Kind kind;
  int index;
};

// A place in the grid, as the scalar or the vector that the kernel asks for.
template <class V>
MSL V place(uint32_t x, uint32_t y, uint32_t z) {
  if constexpr (std::is_arithmetic_v<V>) {
    return V(x);
  } else {
    const uint32_t all[] = {x, y, z};
    V v{};
    for (int i = 0; i < int(sizeof(V) / sizeof(v.x)); i++) v[i] = all[i];
    return v;
  }
}

template <class P, Where where>
MSL P argument(const Launch& launch) {
  using V = std::remove_const_t<std::remove_reference_t<P>>;
  constexpr Kind kind = where.kind;
  if constexpr (kind == kBuffer || kind == kThreadgroup) {
    extern __shared__ char shared_memory[];
    char* at = kind == kBuffer ? launch.buffer[where.index]
                               : shared_memory + launch.threadgroup[where.index];
    if constexpr (std::is_reference_v<P>)
      return *reinterpret_cast<std::remove_reference_t<P>*>(at);
    else
      return reinterpret_cast<P>(at);
  } else {
    const uint3 &g = blockIdx, &l = threadIdx;
    const dim3 &n = gridDim, &s = blockDim;
    const uint32_t count = s.x * s.y * s.z;
    if constexpr (kind == kPosition)
      return place<V>(g.x * s.x + l.x, g.y * s.y + l.y, g.z * s.z + l.z);
    if constexpr (kind == kLocal) return place<V>(l.x, l.y, l.z);
    if constexpr (kind == kGroup) return place<V>(g.x, g.y, g.z);
    if constexpr (kind == kGroups) return place<V>(n.x, n.y, n.z);
    if constexpr (kind == kGroupSize || kind == kFullSize) return place<V>(s.x, s.y, s.z);
    if constexpr (kind == kGrid) return place<V>(n.x * s.x, n.y * s.y, n.z * s.z);
    if constexpr (kind == kIndex) return V(thread_index());
    if constexpr (kind == kLane) return V(lane());
    if constexpr (kind == kSimd) return V(thread_index() / 32);
    if constexpr (kind == kSimds) return V((count + 31) / 32);
    if constexpr (kind == kSimdWidth) return V(32);
  }
}

// Calls a kernel for one thread, with each argument of the type that the kernel names.
template <auto F, Where... where>
struct Bind;
template <class... P, void (*F)(P...), Where... where>
struct Bind<F, where...> {
  static_assert(sizeof...(P) == sizeof...(where));
  static MSL void run(const Launch& launch) { F(argument<P, where>(launch)...); }
};

}  // namespace msl
