// Batch normalisation over the rows of [rows, channels]. G is the storage of gamma and beta, V of
// mean and variance.
#include "column_parameters.h"
#include "neuron.h"

constant int kind [[function_constant(0)]];  // of the neuron

// Welford's mean and sum of squares of every `parts`-th row.
kernel void moments(constant ColumnParameters& p [[buffer(0)]], device const T* x [[buffer(1)]],
                    device float* means [[buffer(2)]], device float* squares [[buffer(3)]],
                    uint thread_index [[thread_position_in_grid]]) {
  uint width = uint(p.channels) * uint(p.parts);
  if (thread_index >= width) return;
  float mean = 0, square = 0, count = 0;
  for (uint i = thread_index; i < uint(p.rows) * uint(p.channels); i += width) {
    float v = float(x[i]);
    count += 1;
    float off = v - mean;
    mean += off / count;
    square += off * (v - mean);
  }
  means[thread_index] = mean;
  squares[thread_index] = square;
}

// Joins the parts of each channel, by Chan's formula.
kernel void join_moments(constant ColumnParameters& p [[buffer(0)]],
                         device const float* means [[buffer(1)]],
                         device const float* squares [[buffer(2)]],
                         device float* mean_out [[buffer(3)]],
                         device float* variance_out [[buffer(4)]],
                         uint first [[thread_position_in_grid]],
                         uint step [[threads_per_grid]]) {
  for (uint c = first; c < uint(p.channels); c += step) {
    float mean = 0, square = 0, count = 0;
    for (int part = 0; part < p.parts; part++) {
      float more = float((p.rows - part + p.parts - 1) / p.parts);
      float off = means[uint(part * p.channels) + c] - mean;
      float total = count + more;
      mean += off * (more / total);
      square += squares[uint(part * p.channels) + c] + off * off * (count * more / total);
      count = total;
    }
    mean_out[c] = mean;
    variance_out[c] = square / count;
  }
}

kernel void normalize_rows(constant NormalizeParameters& p [[buffer(0)]],
                      device const T* x [[buffer(1)]], device const V* mean [[buffer(2)]],
                      device const V* variance [[buffer(3)]], device const G* gamma [[buffer(4)]],
                      device const G* beta [[buffer(5)]], device T* y [[buffer(6)]], uint first [[thread_position_in_grid]],
                      uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.rows) * uint(p.channels); i += step) {
    uint c = i % uint(p.channels);
    float scale = float(gamma[c]) / sqrt(float(variance[c]) + p.epsilon);
    float v = (float(x[i]) - float(mean[c])) * scale + float(beta[c]);
    y[i] = T(neuron_value(kind, p.a, p.b, p.c, p.log_c, v));
  }
}

// dy behind relu, whose slope below zero is p.slope; 1 where there is none.
inline float behind_relu(float dy, float x, float mean, float scale, float beta, float slope) {
  return (x - mean) * scale + beta <= 0.0f ? dy * slope : dy;
}

// Parts of the sums of dy and of dy times the normalised x.
kernel void gradient_sums(constant ColumnParameters& p [[buffer(0)]],
                          device const T* dy [[buffer(1)]], device const T* x [[buffer(2)]],
                          device const V* mean [[buffer(3)]],
                          device const V* variance [[buffer(4)]],
                          device const G* gamma [[buffer(5)]], device const G* beta [[buffer(6)]],
                          device float* sums [[buffer(7)]], device float* products [[buffer(8)]],
                          uint thread_index [[thread_position_in_grid]]) {
  uint width = uint(p.channels) * uint(p.parts);
  if (thread_index >= width) return;
  uint c = thread_index % uint(p.channels);
  float inverse = 1.0f / sqrt(float(variance[c]) + p.epsilon);
  float m = float(mean[c]), scale = float(gamma[c]) * inverse, b = float(beta[c]);
  float sum = 0, product = 0;
  for (uint i = thread_index; i < uint(p.rows) * uint(p.channels); i += width) {
    float v = float(x[i]);
    float g = behind_relu(float(dy[i]), v, m, scale, b, p.slope);
    sum += g;
    product += g * ((v - m) * inverse);
  }
  sums[thread_index] = sum;
  products[thread_index] = product;
}

// In training, mean and variance depend on x: their cotangents arrive here, and dbeta and dgamma
// are the sums above.
kernel void norm_data_gradient(
    constant ColumnParameters& p [[buffer(0)]], device const T* dy [[buffer(1)]],
    device const float* dmean [[buffer(2)]], device const float* dvariance [[buffer(3)]],
    device const T* x [[buffer(4)]], device const V* mean [[buffer(5)]],
    device const V* variance [[buffer(6)]], device const G* gamma [[buffer(7)]],
    device const G* beta [[buffer(8)]], device const float* dgamma [[buffer(9)]],
    device const float* dbeta [[buffer(10)]], device T* dx [[buffer(11)]],
    uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.rows) * uint(p.channels); i += step) {
    uint c = i % uint(p.channels);
    float inverse = 1.0f / sqrt(float(variance[c]) + p.epsilon);
    float scale = float(gamma[c]) * inverse, count = float(p.rows);
    float off = float(x[i]) - float(mean[c]);
    float g = behind_relu(float(dy[i]), float(x[i]), float(mean[c]), scale, float(beta[c]),
                          p.slope);
    float centred = g - dbeta[c] / count - off * inverse * (dgamma[c] / count);
    dx[i] = T(scale * centred + (dmean[c] + 2.0f * off * dvariance[c]) / count);
  }
}

kernel void norm_inference_data_gradient(
    constant ColumnParameters& p [[buffer(0)]], device const T* dy [[buffer(1)]],
    device const T* x [[buffer(2)]], device const V* mean [[buffer(3)]],
    device const V* variance [[buffer(4)]], device const G* gamma [[buffer(5)]],
    device const G* beta [[buffer(6)]], device T* dx [[buffer(7)]],
    uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.rows) * uint(p.channels); i += step) {
    uint c = i % uint(p.channels);
    float scale = float(gamma[c]) / sqrt(float(variance[c]) + p.epsilon);
    float g = behind_relu(float(dy[i]), float(x[i]), float(mean[c]), scale, float(beta[c]),
                          p.slope);
    dx[i] = T(scale * g);
  }
}
