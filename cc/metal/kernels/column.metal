// bias_gradient(dy), and the slopes' part of prelu_gradient.
#include "column_parameters.h"
#include "common.h"

kernel void column_sum(constant ColumnParameters& p [[buffer(0)]], device const T* x [[buffer(1)]],
                       device float* partial [[buffer(2)]],
                       uint thread_index [[thread_position_in_grid]]) {
  uint width = uint(p.channels) * uint(p.parts);
  if (thread_index >= width) return;
  float sum = 0;
  for (uint i = thread_index; i < uint(p.rows) * uint(p.channels); i += width) sum += float(x[i]);
  partial[thread_index] = sum;
}

kernel void prelu_slope_gradient(constant ColumnParameters& p [[buffer(0)]],
                                 device const T* dy [[buffer(1)]], device const T* x [[buffer(2)]],
                                 device float* partial [[buffer(3)]],
                                 uint thread_index [[thread_position_in_grid]]) {
  uint width = uint(p.channels) * uint(p.parts);
  if (thread_index >= width) return;
  float sum = 0;
  for (uint i = thread_index; i < uint(p.rows) * uint(p.channels); i += width) {
    float v = float(x[i]);
    sum += v > 0.0f ? 0.0f : float(dy[i]) * v;
  }
  partial[thread_index] = sum;
}

kernel void add_parts(constant ColumnParameters& p [[buffer(0)]],
                      device const float* partial [[buffer(1)]], device T* y [[buffer(2)]],
                      uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint c = first; c < uint(p.channels); c += step) {
    float sum = 0;
    for (uint i = 0; i < uint(p.parts); i++) sum += partial[i * uint(p.channels) + c];
    y[c] = T(sum);
  }
}
