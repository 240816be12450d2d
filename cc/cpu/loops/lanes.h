// Vectors of N floats, and of N integers beside them, in the compiler's own vector types: for loops whose sums must stay in
// registers over a second loop. Operators and `mask ? a : b` work on them as on one number; Lanes<1> is one number.
// Include only from files of loops/.
#pragma once

#include <cstdint>

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kMaxLanes = 16;
#elif defined(__AVX2__)
constexpr int kMaxLanes = 8;
#else
constexpr int kMaxLanes = 4;
#endif

template <int N>
struct Lanes {
  typedef float Float __attribute__((vector_size(4 * N)));
  typedef int32_t Int __attribute__((vector_size(4 * N)));
  typedef uint8_t Byte __attribute__((vector_size(N)));
  using Mask = Int;
};

template <>
struct Lanes<1> {
  using Float = float;
  using Int = int32_t;
  using Byte = uint8_t;
  using Mask = bool;
};

// From and to memory of any alignment.
template <class V>
inline V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <class V>
inline void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// Integers kept in memory as bytes or as they are.
template <int N>
inline typename Lanes<N>::Int load_integers(const uint8_t* p) {
  auto bytes = load<typename Lanes<N>::Byte>(p);
  if constexpr (N == 1)
    return bytes;
  else
    return __builtin_convertvector(bytes, typename Lanes<N>::Int);
}
template <int N>
inline typename Lanes<N>::Int load_integers(const int32_t* p) {
  return load<typename Lanes<N>::Int>(p);
}
template <int N>
inline void store_integers(uint8_t* p, typename Lanes<N>::Int v) {
  if constexpr (N == 1)
    *p = static_cast<uint8_t>(v);
  else
    store(p, __builtin_convertvector(v, typename Lanes<N>::Byte));
}
template <int N>
inline void store_integers(int32_t* p, typename Lanes<N>::Int v) {
  store(p, v);
}

// f(lanes, c) for vectors that cover [0, channels); the last overlaps the one before it, so f may only overwrite.
template <int N, class F>
inline void over_channels(int64_t channels, const F& f) {
  for (int64_t c = 0; c < channels; c += N) f(c + N <= channels ? c : channels - N);
}

// f.template operator()<N>() with the widest N that is at most `channels`.
template <class F>
inline void with_lanes(int64_t channels, const F& f) {
  if constexpr (kMaxLanes >= 16)
    if (channels >= 16) return f.template operator()<16>();
  if constexpr (kMaxLanes >= 8)
    if (channels >= 8) return f.template operator()<8>();
  if (channels >= 4) return f.template operator()<4>();
  f.template operator()<1>();
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
