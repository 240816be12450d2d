// Batch normalisation over the rows of [rows, channels]. G is the storage of gamma and beta, V of
// mean and variance.
#include "column_parameters.h"
#include "neuron.h"

constant int kind [[function_constant(0)]];  // of the neuron

// Mean and sum of squares of the differences from it, of so many numbers.
struct Moments {
  float count, mean, square;
};

// Those of both, by Chan's formula.
inline Moments joined(Moments a, Moments b) {
  if (a.count == 0.0f) return b;
  if (b.count == 0.0f) return a;
  float count = a.count + b.count;
  float off = b.mean - a.mean, share = b.count / count;
  Moments m;
  m.count = count;
  m.mean = a.mean + off * share;
  m.square = a.square + b.square + off * off * (a.count * share);
  return m;
}

// Of every `parts`-th row, some of them at once.
kernel void moments(constant ColumnParameters& p [[buffer(0)]],
                    device const CAREFUL T* x [[buffer(1)]], device float* means [[buffer(2)]],
                    device float* squares [[buffer(3)]],
                    uint thread_index [[thread_position_in_grid]]) {
  uint width = uint(p.channels) * uint(p.parts);
  if (thread_index >= width) return;
  uint end = uint(p.rows) * uint(p.channels);
  CAREFUL uint i = thread_index;
  Moments all;
  all.count = 0, all.mean = 0, all.square = 0;
  for (; i + (kRowsAtOnce - 1) * width < end; i += kRowsAtOnce * width) {
    float v[kRowsAtOnce];
    for (uint k = 0; k < kRowsAtOnce; k++) v[k] = float(x[i + k * width]);
    Moments some;
    some.count = kRowsAtOnce;
    some.mean = ((v[0] + v[1]) + (v[2] + v[3])) * 0.25f;
    some.square = 0;
    for (CAREFUL uint k = 0; k < kRowsAtOnce; k++) some.square += (v[k] - some.mean) * (v[k] - some.mean);
    all = joined(all, some);
  }
  for (; i < end; i += width) {
    Moments one;
    one.count = 1, one.mean = float(x[i]), one.square = 0;
    all = joined(all, one);
  }
  means[thread_index] = all.mean;
  squares[thread_index] = all.square;
}

// Joins the parts of a channel: each thread some, the lanes of a SIMD-group theirs in pairs, then
// those of the SIMD-groups.
kernel void join_moments(
    constant ColumnParameters& p [[buffer(0)]], device const CAREFUL float* means [[buffer(1)]],
    device const CAREFUL float* squares [[buffer(2)]], device float* mean_out [[buffer(3)]],
    device float* variance_out [[buffer(4)]], uint c [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
    uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float counts_of[kGroupShared], means_of[kGroupShared], squares_of[kGroupShared];
  Moments all;
  all.count = 0, all.mean = 0, all.square = 0;
  for (CAREFUL uint part = thread_index; part < uint(p.parts); part += threads) {
    Moments one;
    one.count = float((uint(p.rows) - part + uint(p.parts) - 1u) / uint(p.parts));
    one.mean = means[part * uint(p.channels) + c];
    one.square = squares[part * uint(p.channels) + c];
    all = joined(all, one);
  }
#ifdef SECOND_FORM
  uint place = thread_index, filled = threads;
#else
  for (uint step = 16; step > 0; step /= 2) {
    Moments other;
    other.count = simd_shuffle_xor(all.count, ushort(step));
    other.mean = simd_shuffle_xor(all.mean, ushort(step));
    other.square = simd_shuffle_xor(all.square, ushort(step));
    all = joined(all, other);
  }
  uint place = simd, filled = simds;
  if (lane == 0)
#endif
  counts_of[place] = all.count, means_of[place] = all.mean, squares_of[place] = all.square;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index != 0) return;
  for (CAREFUL uint i = 1; i < filled; i++) {
    Moments other;
    other.count = counts_of[i], other.mean = means_of[i], other.square = squares_of[i];
    all = joined(all, other);
  }
  mean_out[c] = all.mean;
  variance_out[c] = all.square / all.count;
}

kernel void normalize_rows(constant NormalizeParameters& p [[buffer(0)]],
                           device const CAREFUL T* x [[buffer(1)]],
                           device const CAREFUL V* mean [[buffer(2)]],
                           device const CAREFUL V* variance [[buffer(3)]],
                           device const CAREFUL G* gamma [[buffer(4)]],
                           device const CAREFUL G* beta [[buffer(5)]], device T* y [[buffer(6)]],
                           uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.rows) * uint(p.channels); i += step) {
    uint c = i % uint(p.channels);
    float scale = float(gamma[c]) / sqrt(float(variance[c]) + p.epsilon);
    float v = (float(x[i]) - float(mean[c])) * scale + float(beta[c]);
    y[i] = T(neuron_value(kind, p.a, p.b, p.c, p.log_c, v));
  }
}

// dy behind relu, whose slope below zero is p.slope; 1 where there is none.
inline float behind_relu(float dy, float x, float mean, float scale, float beta, float slope) {
  return (x - mean) * scale + beta <= 0.0f ? times(slope, dy) : dy;
}

// Parts of the sums of dy and of dy times the normalised x.
kernel void gradient_sums(
    constant ColumnParameters& p [[buffer(0)]], device const CAREFUL T* dy [[buffer(1)]],
    device const CAREFUL T* x [[buffer(2)]], device const CAREFUL V* mean [[buffer(3)]],
    device const CAREFUL V* variance [[buffer(4)]], device const CAREFUL G* gamma [[buffer(5)]],
    device const CAREFUL G* beta [[buffer(6)]], device float* sums [[buffer(7)]],
    device float* products [[buffer(8)]], uint thread_index [[thread_position_in_grid]]) {
  uint width = uint(p.channels) * uint(p.parts);
  if (thread_index >= width) return;
  uint c = thread_index % uint(p.channels);
  float inverse = 1.0f / sqrt(float(variance[c]) + p.epsilon);
  float m = float(mean[c]), scale = float(gamma[c]) * inverse, b = float(beta[c]);
  uint end = uint(p.rows) * uint(p.channels);
  CAREFUL uint i = thread_index;
  float sum = 0, product = 0;
  for (; i + (kRowsAtOnce - 1) * width < end; i += kRowsAtOnce * width) {
    float v[kRowsAtOnce], g[kRowsAtOnce];
    for (uint k = 0; k < kRowsAtOnce; k++) v[k] = float(x[i + k * width]);
    for (uint k = 0; k < kRowsAtOnce; k++) g[k] = float(dy[i + k * width]);
    for (uint k = 0; k < kRowsAtOnce; k++) {
      g[k] = behind_relu(g[k], v[k], m, scale, b, p.slope);
      v[k] = g[k] * ((v[k] - m) * inverse);
    }
    sum += (g[0] + g[1]) + (g[2] + g[3]);
    product += (v[0] + v[1]) + (v[2] + v[3]);
  }
  for (; i < end; i += width) {
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
    constant ColumnParameters& p [[buffer(0)]], device const CAREFUL T* dy [[buffer(1)]],
    device const CAREFUL float* dmean [[buffer(2)]],
    device const CAREFUL float* dvariance [[buffer(3)]], device const CAREFUL T* x [[buffer(4)]],
    device const CAREFUL V* mean [[buffer(5)]], device const CAREFUL V* variance [[buffer(6)]],
    device const CAREFUL G* gamma [[buffer(7)]], device const CAREFUL G* beta [[buffer(8)]],
    device const CAREFUL float* dgamma [[buffer(9)]],
    device const CAREFUL float* dbeta [[buffer(10)]], device T* dx [[buffer(11)]],
    uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.rows) * uint(p.channels); i += step) {
    uint c = i % uint(p.channels);
    float inverse = 1.0f / sqrt(float(variance[c]) + p.epsilon);
    float scale = float(gamma[c]) * inverse, count = float(p.rows);
    float off = float(x[i]) - float(mean[c]);
    float g =
        behind_relu(float(dy[i]), float(x[i]), float(mean[c]), scale, float(beta[c]), p.slope);
    float centred = g - dbeta[c] / count - off * inverse * (dgamma[c] / count);
    dx[i] = T(scale * centred + (dmean[c] + 2.0f * off * dvariance[c]) / count);
  }
}

kernel void norm_inference_data_gradient(
    constant ColumnParameters& p [[buffer(0)]], device const CAREFUL T* dy [[buffer(1)]],
    device const CAREFUL T* x [[buffer(2)]], device const CAREFUL V* mean [[buffer(3)]],
    device const CAREFUL V* variance [[buffer(4)]], device const CAREFUL G* gamma [[buffer(5)]],
    device const CAREFUL G* beta [[buffer(6)]], device T* dx [[buffer(7)]],
    uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.rows) * uint(p.channels); i += step) {
    uint c = i % uint(p.channels);
    float scale = float(gamma[c]) / sqrt(float(variance[c]) + p.epsilon);
    float g =
        behind_relu(float(dy[i]), float(x[i]), float(mean[c]), scale, float(beta[c]), p.slope);
    dx[i] = T(scale * g);
  }
}
