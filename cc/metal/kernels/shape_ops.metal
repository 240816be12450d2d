// Ops that only move elements: boxes of pad, concatenate and transposes; pick and its gradient.
#include "common.h"
#include "shape_parameters.h"

kernel void copy_box(constant BoxParameters& p [[buffer(0)]],
                     device const CAREFUL T* x [[buffer(1)]], device T* y [[buffer(2)]],
                     uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step) {
    uint rest = i;
    int from = p.from_offset, to = p.to_offset;
    for (CAREFUL int axis = p.rank - 1; axis >= 0; axis--) {
      int at = int(rest % uint(p.size[axis]));
      rest /= uint(p.size[axis]);
      from += at * p.from[axis];
      to += at * p.to[axis];
    }
    y[to] = x[from];
  }
}

kernel void fill(constant int& count [[buffer(0)]], device const CAREFUL T* value [[buffer(1)]],
                 device T* y [[buffer(2)]], uint first [[thread_position_in_grid]],
                 uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(count); i += step) y[i] = value[0];
}

kernel void pick(constant PickParameters& p [[buffer(0)]], device const CAREFUL T* x [[buffer(1)]],
                 device const CAREFUL int* index [[buffer(2)]], device T* y [[buffer(3)]],
                 uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.rows); i += step) {
    bool valid = index[i] >= 0 && index[i] < p.classes;
    y[i] = valid ? x[i * uint(p.classes) + uint(index[i])] : T(NAN);
  }
}

kernel void pick_gradient(constant PickParameters& p [[buffer(0)]],
                          device const CAREFUL T* dy [[buffer(1)]],
                          device const CAREFUL int* index [[buffer(2)]], device T* dx [[buffer(3)]],
                          uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.rows) * uint(p.classes); i += step) {
    uint row = i / uint(p.classes);
    dx[i] = int(i % uint(p.classes)) == index[row] ? dy[row] : T(0.0f);
  }
}
