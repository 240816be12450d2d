// Adds the parts of a sum that several threadgroups made.
#include "common.h"
#include "shape_parameters.h"

kernel void add_splits(constant SplitParameters& p [[buffer(0)]],
                       device const CAREFUL float* parts [[buffer(1)]], device T* y [[buffer(2)]],
                       uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step) {
    float sum = 0;
    for (CAREFUL uint part = 0; part < uint(p.splits); part++)
      sum += parts[part * uint(p.count) + i];
    y[i] = T(sum);
  }
}
