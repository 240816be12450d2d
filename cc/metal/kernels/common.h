// What every kernel file begins with. T is the storage of the kernel's arrays, defined before this
// text; arithmetic is in float.
#pragma once
#include <metal_stdlib>
using namespace metal;

// The second form of kernels, which serves where a GPU's compiler makes none or a wrong one of the
// first. Apple's has gone wrong on loops that carry a value from turn to turn, cured by a volatile
// counter, and on sums of numbers in parts of a larger buffer, cured by reading them through a
// volatile pointer: CAREFUL is that word. Nor has the second form matrices or sums of SIMD-groups.
#ifdef SECOND_FORM
#define CAREFUL volatile
constant constexpr int kGroupShared = 1024;  // numbers that a threadgroup shares: one a thread
#else
#define CAREFUL
constant constexpr int kGroupShared = 32;  // one a SIMD-group
#endif

// NaN wins in both, as in lax.max and lax.min; of two zeros +0 is the greater.
inline float maximum(float x, float y) {
  if (x == y) return as_type<float>(as_type<uint>(x) & as_type<uint>(y));
  return x > y || x != x ? x : y;
}
inline float minimum(float x, float y) {
  if (x == y) return as_type<float>(as_type<uint>(x) | as_type<uint>(y));
  return x < y || x != x ? x : y;
}

// Sums and maxima over a threadgroup: each SIMD-group's own, then of those. `shared` has
// kGroupShared numbers, and is free again when the call returns.
inline float group_sum(float x, threadgroup float* shared, uint lane, uint simd, uint simds) {
#ifdef SECOND_FORM
  shared[simd * 32 + lane] = x;
  uint count = simds * 32;
#else
  x = simd_sum(x);
  if (lane == 0) shared[simd] = x;
  uint count = simds;
#endif
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sum = 0;
  for (CAREFUL uint i = 0; i < count; i++) sum += shared[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return sum;
}

inline float group_maximum(float x, threadgroup float* shared, uint lane, uint simd, uint simds) {
#ifdef SECOND_FORM
  shared[simd * 32 + lane] = x;
  uint count = simds * 32;
#else
  for (uint step = 16; step > 0; step /= 2) x = maximum(x, simd_shuffle_xor(x, ushort(step)));
  if (lane == 0) shared[simd] = x;
  uint count = simds;
#endif
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float largest = shared[0];
  for (CAREFUL uint i = 1; i < count; i++) largest = maximum(largest, shared[i]);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return largest;
}
