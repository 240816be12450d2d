// What every kernel file begins with. T is the storage of the kernel's arrays, defined before this
// text; arithmetic is in float.
#pragma once
#include <metal_stdlib>
using namespace metal;

// NaN wins in both, as in lax.max and lax.min; of two zeros +0 is the greater.
inline float maximum(float x, float y) {
  if (x == y) return as_type<float>(as_type<uint>(x) & as_type<uint>(y));
  return x > y || x != x ? x : y;
}
inline float minimum(float x, float y) {
  if (x == y) return as_type<float>(as_type<uint>(x) | as_type<uint>(y));
  return x < y || x != x ? x : y;
}

// Sums and maxima over a threadgroup: each SIMD-group's own, then of those. `shared` holds one
// number for each SIMD-group, and is free again when the call returns.
inline float group_sum(float x, threadgroup float* shared, uint lane, uint simd, uint simds) {
  x = simd_sum(x);
  if (lane == 0) shared[simd] = x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sum = 0;
  for (uint i = 0; i < simds; i++) sum += shared[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return sum;
}

inline float group_maximum(float x, threadgroup float* shared, uint lane, uint simd, uint simds) {
  for (uint step = 16; step > 0; step /= 2) x = maximum(x, simd_shuffle_xor(x, ushort(step)));
  if (lane == 0) shared[simd] = x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float largest = shared[0];
  for (uint i = 1; i < simds; i++) largest = maximum(largest, shared[i]);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return largest;
}
