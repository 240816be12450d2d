// y = neuron(y + bias) in place, after a kernel of Apple's that has neither.
#include "neuron.h"

constant int kind [[function_constant(0)]];  // of the neuron
constant int has_bias [[function_constant(1)]];

kernel void tail(constant ElementwiseParameters& p [[buffer(0)]], device T* y [[buffer(1)]],
                 device const T* bias [[buffer(2)]], uint first [[thread_position_in_grid]],
                 uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step) {
    float v = float(y[i]);
    if (has_bias) v += float(bias[i % uint(p.channels)]);
    y[i] = T(neuron_value(kind, p.a, p.b, p.c, p.log_c, v));
  }
}
