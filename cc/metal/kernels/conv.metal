// The simplest convolution kernels, which take every geometry: one thread for an element. R is the
// storage of the result.
#include "gemm_parameters.h"
#include "neuron.h"

constant int kind [[function_constant(0)]];  // of the neuron
constant int has_bias [[function_constant(1)]];

kernel void conv_direct(constant DirectConvParameters& p [[buffer(0)]],
                        device const CAREFUL T* x [[buffer(1)]],
                        device const CAREFUL T* w [[buffer(2)]],
                        device const CAREFUL T* bias [[buffer(3)]], device R* y [[buffer(4)]],
                        uint group [[threadgroup_position_in_grid]],
                        uint index [[thread_index_in_threadgroup]],
                        uint threads [[threads_per_threadgroup]]) {
  uint i = (group + uint(p.first[0])) * threads + index;
  if (i >= uint(p.count)) return;
  int o = int(i) % p.conv.out_channels;
  int at = int(i) / p.conv.out_channels;
  int column = at % p.conv.out_width;
  int row = at / p.conv.out_width % p.conv.out_height;
  int batch = at / (p.conv.out_width * p.conv.out_height);
  int first_channel = o / p.conv.group_out * p.conv.group_in;
  float sum = 0;
  for (CAREFUL int r = 0; r < p.conv.window_height; r++) {
    int in_row = row * p.conv.stride_height - p.conv.pad_height + r * p.conv.gap_height;
    if (in_row < 0 || in_row >= p.conv.height) continue;
    for (CAREFUL int s = 0; s < p.conv.window_width; s++) {
      int in_column = column * p.conv.stride_width - p.conv.pad_width + s * p.conv.gap_width;
      if (in_column < 0 || in_column >= p.conv.width) continue;
      int from = ((batch * p.conv.height + in_row) * p.conv.width + in_column) * p.conv.channels +
                 first_channel;
      int weight = (r * p.conv.window_width + s) * p.conv.group_in * p.conv.out_channels + o;
      for (CAREFUL int c = 0; c < p.conv.group_in; c++)
        sum += float(x[from + c]) * float(w[weight + c * p.conv.out_channels]);
    }
  }
  if (has_bias) sum += float(bias[o]);
  y[i] = R(neuron_value(kind, p.a, p.b, p.c, p.log_c, sum));
}

kernel void conv_data_gradient_direct(constant DirectConvParameters& p [[buffer(0)]],
                                      device const CAREFUL T* dy [[buffer(1)]],
                                      device const CAREFUL T* w [[buffer(2)]],
                                      device R* dx [[buffer(3)]],
                                      uint group [[threadgroup_position_in_grid]],
                                      uint index [[thread_index_in_threadgroup]],
                                      uint threads [[threads_per_threadgroup]]) {
  uint i = (group + uint(p.first[0])) * threads + index;
  if (i >= uint(p.count)) return;
  int c = int(i) % p.conv.channels;
  int at = int(i) / p.conv.channels;
  int column = at % p.conv.width;
  int row = at / p.conv.width % p.conv.height;
  int batch = at / (p.conv.width * p.conv.height);
  int first_channel = c / p.conv.group_in * p.conv.group_out;
  float sum = 0;
  for (CAREFUL int r = 0; r < p.conv.window_height; r++) {
    int out_row = row + p.conv.pad_height - r * p.conv.gap_height;
    if (out_row < 0 || out_row % p.conv.stride_height != 0) continue;
    out_row /= p.conv.stride_height;
    if (out_row >= p.conv.out_height) continue;
    for (CAREFUL int s = 0; s < p.conv.window_width; s++) {
      int out_column = column + p.conv.pad_width - s * p.conv.gap_width;
      if (out_column < 0 || out_column % p.conv.stride_width != 0) continue;
      out_column /= p.conv.stride_width;
      if (out_column >= p.conv.out_width) continue;
      int from = ((batch * p.conv.out_height + out_row) * p.conv.out_width + out_column) *
                     p.conv.out_channels +
                 first_channel;
      int weight = ((r * p.conv.window_width + s) * p.conv.group_in + c % p.conv.group_in) *
                       p.conv.out_channels +
                   first_channel;
      for (CAREFUL int o = 0; o < p.conv.group_out; o++)
        sum += float(dy[from + o]) * float(w[weight + o]);
    }
  }
  dx[i] = R(sum);
}

// An element of the weights for each of `splits` parts of the batch, added by add_splits.
kernel void conv_weight_gradient_direct(constant DirectConvParameters& p [[buffer(0)]],
                                        device const CAREFUL T* x [[buffer(1)]],
                                        device const CAREFUL T* dy [[buffer(2)]],
                                        device float* parts [[buffer(3)]],
                                        uint group [[threadgroup_position_in_grid]],
                                        uint index [[thread_index_in_threadgroup]],
                                        uint threads [[threads_per_threadgroup]]) {
  uint i = (group + uint(p.first[0])) * threads + index;
  if (i >= uint(p.count) * uint(p.splits)) return;
  int part = int(i / uint(p.count));
  int at = int(i % uint(p.count));
  int o = at % p.conv.out_channels;
  at /= p.conv.out_channels;
  int c = at % p.conv.group_in + o / p.conv.group_out * p.conv.group_in;
  at /= p.conv.group_in;
  int s = at % p.conv.window_width, r = at / p.conv.window_width;
  float sum = 0;
  for (CAREFUL int batch = part; batch < p.batch; batch += p.splits) {
    for (CAREFUL int row = 0; row < p.conv.out_height; row++) {
      int in_row = row * p.conv.stride_height - p.conv.pad_height + r * p.conv.gap_height;
      if (in_row < 0 || in_row >= p.conv.height) continue;
      float row_sum = 0;
      for (CAREFUL int column = 0; column < p.conv.out_width; column++) {
        int in_column = column * p.conv.stride_width - p.conv.pad_width + s * p.conv.gap_width;
        if (in_column < 0 || in_column >= p.conv.width) continue;
        int from =
            ((batch * p.conv.height + in_row) * p.conv.width + in_column) * p.conv.channels + c;
        int out =
            ((batch * p.conv.out_height + row) * p.conv.out_width + column) * p.conv.out_channels +
            o;
        row_sum += float(x[from]) * float(dy[out]);
      }
      sum += row_sum;
    }
  }
  parts[i] = sum;
}
