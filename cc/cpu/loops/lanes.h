// Vectors of N floats, and of N integers beside them, in the compiler's own vector types: for loops
// whose sums must stay in registers over a second loop. Operators and `mask ? a : b` work on them
// as on one number; Lanes<1> is one number. Include only from files of loops/.
#pragma once

#include <cstdint>

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

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
};

template <>
struct Lanes<1> {
  using Float = float;
  using Int = int32_t;
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

// Integers kept in memory as bytes or as they are. On x86 by intrinsics: compilers turn the
// conversion of whole vectors into one of single numbers. (The masked forms, of all elements: the
// others warn under GCC 12.)
template <int N>
inline typename Lanes<N>::Int load_integers(const int32_t* p) {
  return load<typename Lanes<N>::Int>(p);
}
template <int N>
inline typename Lanes<N>::Int load_integers(const uint8_t* p) {
  using Int = typename Lanes<N>::Int;
  if constexpr (N == 1) return *p;
#if defined(__AVX512F__)
  if constexpr (N == 16) return (Int)_mm512_maskz_cvtepu8_epi32(0xffff, load<__m128i>(p));
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return (Int)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(load<int64_t>(p)));
#endif
#if defined(__SSE4_1__)
  if constexpr (N == 4) return (Int)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(load<int32_t>(p)));
#endif
  Int v;
  for (int i = 0; i < N; i++) reinterpret_cast<int32_t*>(&v)[i] = p[i];
  return v;
}

template <int N>
inline void store_integers(int32_t* p, typename Lanes<N>::Int v) {
  store(p, v);
}
template <int N>
inline void store_integers(uint8_t* p, typename Lanes<N>::Int v) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return store(p, _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)v));
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) {
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)v),
                                     _mm256_extracti128_si256((__m256i)v, 1));
    return store(p, _mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
  }
#endif
#if defined(__SSE4_1__)
  if constexpr (N == 4) {
    __m128i words = _mm_packus_epi32((__m128i)v, (__m128i)v);
    return store(p, _mm_cvtsi128_si32(_mm_packus_epi16(words, words)));
  }
#endif
  for (int i = 0; i < N; i++) p[i] = static_cast<uint8_t>(reinterpret_cast<int32_t*>(&v)[i]);
}

// f(c) for vectors at channel c that cover [0, channels); the last overlaps the one before it, so f
// may only overwrite.
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
