// bias_gradient(dy), and the slopes' part of prelu_gradient.
#include "column_parameters.h"
#include "common.h"

kernel void column_sum(constant ColumnParameters& p [[buffer(0)]],
                       device const CAREFUL T* x [[buffer(1)]], device float* partial [[buffer(2)]],
                       uint thread_index [[thread_position_in_grid]]) {
  uint width = uint(p.channels) * uint(p.parts);
  if (thread_index >= width) return;
  uint end = uint(p.rows) * uint(p.channels);
  CAREFUL uint i = thread_index;
  float sum = 0, sums[kRowsAtOnce] = {0, 0, 0, 0};
  for (; i + (kRowsAtOnce - 1) * width < end; i += kRowsAtOnce * width)
    for (uint k = 0; k < kRowsAtOnce; k++) sums[k] += float(x[i + k * width]);
  for (; i < end; i += width) sum += float(x[i]);
  partial[thread_index] = sum + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

inline float slope_term(float dy, float x) { return x > 0.0f ? 0.0f : dy * x; }

kernel void prelu_slope_gradient(constant ColumnParameters& p [[buffer(0)]],
                                 device const CAREFUL T* dy [[buffer(1)]],
                                 device const CAREFUL T* x [[buffer(2)]],
                                 device float* partial [[buffer(3)]],
                                 uint thread_index [[thread_position_in_grid]]) {
  uint width = uint(p.channels) * uint(p.parts);
  if (thread_index >= width) return;
  uint end = uint(p.rows) * uint(p.channels);
  CAREFUL uint i = thread_index;
  float sum = 0, sums[kRowsAtOnce] = {0, 0, 0, 0};
  for (; i + (kRowsAtOnce - 1) * width < end; i += kRowsAtOnce * width)
    for (uint k = 0; k < kRowsAtOnce; k++)
      sums[k] += slope_term(float(dy[i + k * width]), float(x[i + k * width]));
  for (; i < end; i += width) sum += slope_term(float(dy[i]), float(x[i]));
  partial[thread_index] = sum + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

kernel void add_parts(constant ColumnParameters& p [[buffer(0)]],
                      device const CAREFUL float* partial [[buffer(1)]], device T* y [[buffer(2)]],
                      uint c [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]],
                      uint threads [[threads_per_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]],
                      uint simd [[simdgroup_index_in_threadgroup]],
                      uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float shared[kGroupShared];
  float sum = 0;
  for (CAREFUL uint i = thread_index; i < uint(p.parts); i += threads)
    sum += partial[i * uint(p.channels) + c];
  sum = group_sum(sum, shared, lane, simd, simds);
  if (thread_index == 0) y[c] = T(sum);
}
