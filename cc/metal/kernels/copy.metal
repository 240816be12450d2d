// Copies of whole arrays, and the start-up test of memory that is used in place.
#include "common.h"

kernel void copy(constant int& count [[buffer(0)]], device const T* x [[buffer(1)]],
                 device T* y [[buffer(2)]], uint first [[thread_position_in_grid]],
                 uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(count); i += step) y[i] = x[i];
}

kernel void add_one(constant int& count [[buffer(0)]], device T* x [[buffer(1)]],
                    uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(count); i += step) x[i] += 1;
}
