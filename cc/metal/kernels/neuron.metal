// neuron(x), neuron_gradient(dy, x), prelu(x, slopes) and the parts of prelu's gradient.
#include "neuron.h"

constant int kind [[function_constant(0)]];

kernel void neuron(constant ElementwiseParameters& p [[buffer(0)]],
                   device const T* x [[buffer(1)]], device T* y [[buffer(2)]],
                   uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step)
    y[i] = T(neuron_value(kind, p.a, p.b, p.c, p.log_c, float(x[i])));
}

kernel void neuron_gradient(constant ElementwiseParameters& p [[buffer(0)]],
                            device const T* dy [[buffer(1)]], device const T* x [[buffer(2)]],
                            device T* dx [[buffer(3)]], uint first [[thread_position_in_grid]],
                            uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step)
    dx[i] = T(behind_neuron(kind, p.a, p.b, p.c, p.log_c, float(dy[i]), float(x[i])));
}

kernel void prelu(constant ElementwiseParameters& p [[buffer(0)]], device const T* x [[buffer(1)]],
                  device const T* slopes [[buffer(2)]], device T* y [[buffer(3)]],
                  uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step) {
    float v = float(x[i]);
    y[i] = T(v >= 0.0f || v != v ? v : float(slopes[i % uint(p.channels)]) * v);
  }
}

kernel void prelu_data_gradient(constant ElementwiseParameters& p [[buffer(0)]],
                                device const T* dy [[buffer(1)]], device const T* x [[buffer(2)]],
                                device const T* slopes [[buffer(3)]], device T* dx [[buffer(4)]],
                                uint first [[thread_position_in_grid]],
                                uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step) {
    float slope = float(x[i]) > 0.0f ? 1.0f : float(slopes[i % uint(p.channels)]);
    dx[i] = T(float(dy[i]) * slope);
  }
}
