// softmax, log_softmax and softmax_cross_entropy with their gradients, one threadgroup a row. L is
// the storage of labels.
#include "common.h"
#include "softmax_parameters.h"

constant int is_log [[function_constant(0)]];  // or, for the loss, whether labels are dense

kernel void softmax(constant SoftmaxParameters& p [[buffer(0)]],
                    device const CAREFUL T* x [[buffer(1)]], device T* y [[buffer(2)]],
                    uint row [[threadgroup_position_in_grid]],
                    uint first [[thread_position_in_threadgroup]],
                    uint step [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                    uint simd [[simdgroup_index_in_threadgroup]],
                    uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float shared[kGroupShared];
  device const CAREFUL T* from = x + row * uint(p.classes);
  device T* to = y + row * uint(p.classes);
  float largest = -INFINITY;
  for (CAREFUL uint i = first; i < uint(p.classes); i += step)
    largest = maximum(largest, float(from[i]));
  largest = group_maximum(largest, shared, lane, simd, simds);
  float sum = 0;
  for (CAREFUL uint i = first; i < uint(p.classes); i += step) sum += exp(float(from[i]) - largest);
  sum = group_sum(sum, shared, lane, simd, simds);
  float log_sum = log(sum);
  for (CAREFUL uint i = first; i < uint(p.classes); i += step) {
    float shifted = float(from[i]) - largest;
    to[i] = T(is_log ? shifted - log_sum : exp(shifted) / sum);
  }
}

kernel void softmax_gradient(
    constant SoftmaxParameters& p [[buffer(0)]], device const CAREFUL T* dy [[buffer(1)]],
    device const CAREFUL T* y [[buffer(2)]], device T* dx [[buffer(3)]],
    uint row [[threadgroup_position_in_grid]], uint first [[thread_position_in_threadgroup]],
    uint step [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float shared[kGroupShared];
  uint base = row * uint(p.classes);
  float sum = 0;
  for (CAREFUL uint i = first; i < uint(p.classes); i += step)
    sum += is_log ? float(dy[base + i]) : float(dy[base + i]) * float(y[base + i]);
  sum = group_sum(sum, shared, lane, simd, simds);
  for (CAREFUL uint i = first; i < uint(p.classes); i += step) {
    float g = float(dy[base + i]), v = float(y[base + i]);
    dx[base + i] = T(is_log ? g - exp(v) * sum : v * (g - sum));
  }
}

// What a class counts in the loss.
inline float target(constant SoftmaxParameters& p, float label) {
  return label * (1.0f - p.smoothing) + p.smoothing / float(p.classes);
}

kernel void cross_entropy(
    constant SoftmaxParameters& p [[buffer(0)]], device const CAREFUL T* x [[buffer(1)]],
    device const CAREFUL L* labels [[buffer(2)]], device float* loss [[buffer(3)]],
    device float* maxima [[buffer(4)]], device float* log_sums [[buffer(5)]],
    uint row [[threadgroup_position_in_grid]], uint first [[thread_position_in_threadgroup]],
    uint step [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float shared[kGroupShared];
  uint base = row * uint(p.classes);
  float largest = -INFINITY;
  for (CAREFUL uint i = first; i < uint(p.classes); i += step)
    largest = maximum(largest, float(x[base + i]));
  largest = group_maximum(largest, shared, lane, simd, simds);
  float sum = 0;
  for (CAREFUL uint i = first; i < uint(p.classes); i += step)
    sum += exp(float(x[base + i]) - largest);
  float log_sum = log(group_sum(sum, shared, lane, simd, simds));
  float total = 0;
  for (CAREFUL uint i = first; i < uint(p.classes); i += step) {
    float label = is_log ? float(labels[base + i]) : (int(labels[row]) == int(i) ? 1.0f : 0.0f);
    float t = target(p, label);
    // In halves: two finite logits may differ by more than the largest number.
    float half_log_p = (0.5f * float(x[base + i]) - 0.5f * largest) - 0.5f * log_sum;
    total += t == 0.0f && half_log_p == -INFINITY ? 0.0f : 2.0f * t * half_log_p;
  }
  total = group_sum(total, shared, lane, simd, simds);
  bool valid = is_log || (int(labels[row]) >= 0 && int(labels[row]) < p.classes);
  if (first == 0) {
    loss[row] = valid ? -total : NAN;
    maxima[row] = largest;
    log_sums[row] = log_sum;
  }
}

kernel void cross_entropy_gradient(
    constant SoftmaxParameters& p [[buffer(0)]], device const CAREFUL float* dloss [[buffer(1)]],
    device const CAREFUL T* x [[buffer(2)]], device const CAREFUL L* labels [[buffer(3)]],
    device const CAREFUL float* maxima [[buffer(4)]],
    device const CAREFUL float* log_sums [[buffer(5)]], device T* dx [[buffer(6)]],
    uint row [[threadgroup_position_in_grid]], uint first [[thread_position_in_threadgroup]],
    uint step [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float shared[kGroupShared];
  uint base = row * uint(p.classes);
  float weight = 1;
  if (is_log) {
    float sum = 0;
    for (CAREFUL uint i = first; i < uint(p.classes); i += step)
      sum += target(p, float(labels[base + i]));
    weight = group_sum(sum, shared, lane, simd, simds);
  }
  bool valid = is_log || (int(labels[row]) >= 0 && int(labels[row]) < p.classes);
  for (CAREFUL uint i = first; i < uint(p.classes); i += step) {
    float label = is_log ? float(labels[base + i]) : (int(labels[row]) == int(i) ? 1.0f : 0.0f);
    float chance = exp(float(x[base + i]) - maxima[row] - log_sums[row]);
    float gradient = dloss[row] * (chance * weight - target(p, label));
    dx[base + i] = T(valid ? gradient : NAN);
  }
}
