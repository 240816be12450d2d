// The steps of recurrent cells. `gates` holds the inputs' share of the sums, and takes the gates.
#include "recurrent.h"

kernel void lstm_step(
    constant RecurrentParameters& p [[buffer(0)]], device const CAREFUL float* h [[buffer(1)]],
    device const CAREFUL T* r [[buffer(2)]], device const CAREFUL T* bias [[buffer(3)]],
    device const CAREFUL T* peephole [[buffer(4)]], device const CAREFUL int* lengths [[buffer(5)]],
    device const CAREFUL T* c0 [[buffer(6)]], device const CAREFUL float* cells [[buffer(7)]],
    device float* gates [[buffer(8)]], device float* cells_after [[buffer(9)]],
    device float* after [[buffer(10)]], device T* y [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<4, false>(p, h, r, shared, group, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    int n = p.hidden, layer = p.batch * n;
    float before = e.t == p.first_step ? float(c0[e.state])
                                       : cells[p.kept ? e.kept + p.before * layer : e.state];
    float v[4];
    for (int g = 0; g < 4; g++)
      v[g] = gates[e.gate + g * n] + sum_of<4>(shared, at, g) + float(bias[g * n + e.unit]);
    if (has_extra) {
      v[0] += float(peephole[e.unit]) * before;
      v[1] += float(peephole[n + e.unit]) * before;
    }
    float i = gate_of_sum(p, v[0]), f = gate_of_sum(p, v[1]), g = candidate_of_sum(p, v[2]);
    float c = f * before + i * g;
    if (has_extra) v[3] += float(peephole[2 * n + e.unit]) * c;
    float o = gate_of_sum(p, v[3]);
    gates[e.gate] = kept_of(v[0], i);
    gates[e.gate + n] = kept_of(v[1], f);
    gates[e.gate + 2 * n] = kept_of(v[2], g);
    gates[e.gate + 3 * n] = kept_of(v[3], o);
    if (gates_only) continue;
    bool alive = e.t < lengths[e.b];
    cells_after[p.kept ? e.kept : e.state] = alive ? c : before;
    give(p, e, alive, o * output_of(p, c), h, after, y);
  }
}

// The gates before the candidate, of which the last resets; `update` takes what the first keeps of
// the state, for a unit of two matrices.
template <int gates_before>
inline void gates_and_reset(constant RecurrentParameters& p, threadgroup float* shared,
                            device const CAREFUL float* h, device const CAREFUL T* bias,
                            device float* gates, device float* reset, device float* update,
                            uint3 group, uint thread_index) {
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    int own = e.row * p.hidden + e.unit;
    float v = 0;
    for (int g = 0; g < gates_before; g++) {
      int gate = e.gate + g * p.hidden;
      float sum =
          gates[gate] + sum_of<gates_before>(shared, at, g) + float(bias[g * p.hidden + e.unit]);
      v = gate_of_sum(p, sum);
      gates[gate] = kept_of(sum, v);
      if (has_extra && g == 0) update[own] = v * h[own];
    }
    reset[own] = v * h[own];
  }
}

kernel void gru_gates(constant RecurrentParameters& p [[buffer(0)]],
                      device const CAREFUL float* h [[buffer(1)]],
                      device const CAREFUL T* r [[buffer(2)]],
                      device const CAREFUL T* bias [[buffer(3)]], device float* gates [[buffer(4)]],
                      device float* reset [[buffer(5)]], device float* update [[buffer(6)]],
                      uint3 group [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]],
                      uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<2, false>(p, h, r, shared, group, thread_index, simd);
  gates_and_reset<2>(p, shared, h, bias, gates, reset, update, group, thread_index);
}

kernel void mgu_gates(constant RecurrentParameters& p [[buffer(0)]],
                      device const CAREFUL float* h [[buffer(1)]],
                      device const CAREFUL T* r [[buffer(2)]],
                      device const CAREFUL T* bias [[buffer(3)]], device float* gates [[buffer(4)]],
                      device float* reset [[buffer(5)]], device float* update [[buffer(6)]],
                      uint3 group [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]],
                      uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<1, false>(p, h, r, shared, group, thread_index, simd);
  gates_and_reset<1>(p, shared, h, bias, gates, reset, update, group, thread_index);
}

inline float blend(constant RecurrentParameters& p, float z, float n, float h) {
  float kept = keep(z, p.p);
  return p.flip ? kept * h + z * n : kept * n + z * h;
}

// The candidate, from the reset state and what the first gate keeps, and the new state.
kernel void gru_step(
    constant RecurrentParameters& p [[buffer(0)]], device const CAREFUL float* reset [[buffer(1)]],
    device const CAREFUL T* r [[buffer(2)]], device const CAREFUL T* bias [[buffer(3)]],
    device const CAREFUL float* update [[buffer(4)]], device const CAREFUL T* memory [[buffer(5)]],
    device const CAREFUL int* lengths [[buffer(6)]], device const CAREFUL float* h [[buffer(7)]],
    device float* gates [[buffer(8)]], device float* after [[buffer(9)]],
    device T* y [[buffer(10)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  Sums<float> sums[1];
  clear_all<1>(sums);
  multiply<1, false>(p, recurrent_product(p), reset, r, shared, sums, group, thread_index, simd);
  if (has_extra)
    multiply<1, false>(p, square_product(p, 0, p.hidden, 0), update, memory, shared, sums, group,
                       thread_index, simd);
  share<1>(sums, shared, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    int gate = e.gate + p.width - p.hidden;
    float sum = gates[gate] + sum_of<1>(shared, at, 0) + float(bias[p.r_column + e.unit]);
    float n = candidate_of_sum(p, sum);
    gates[gate] = kept_of(sum, n);
    if (gates_only) continue;
    give(p, e, e.t < lengths[e.b], blend(p, gate_of(p, gates[e.gate]), n, h[e.state]), h, after, y);
  }
}

// Gates z, r, m, n, where m = h r_n + bias is what the gate r resets.
kernel void gru_after_step(constant RecurrentParameters& p [[buffer(0)]],
                           device const CAREFUL float* h [[buffer(1)]],
                           device const CAREFUL T* r [[buffer(2)]],
                           device const CAREFUL T* bias [[buffer(3)]],
                           device const CAREFUL T* recurrent_bias [[buffer(4)]],
                           device const CAREFUL int* lengths [[buffer(5)]],
                           device float* gates [[buffer(6)]], device float* after [[buffer(7)]],
                           device T* y [[buffer(8)]], uint3 group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<3, false>(p, h, r, shared, group, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    int size = p.hidden;
    float z = gates[e.gate] + sum_of<3>(shared, at, 0) + float(bias[e.unit]);
    float reset = gates[e.gate + size] + sum_of<3>(shared, at, 1) + float(bias[size + e.unit]);
    float m = sum_of<3>(shared, at, 2) + float(recurrent_bias[e.unit]);
    float z_value = gate_of_sum(p, z), reset_value = gate_of_sum(p, reset);
    float sum = gates[e.gate + 3 * size] + float(bias[2 * size + e.unit]) + reset_value * m;
    float n = candidate_of_sum(p, sum);
    gates[e.gate] = kept_of(z, z_value);
    gates[e.gate + size] = kept_of(reset, reset_value);
    gates[e.gate + 2 * size] = m;
    gates[e.gate + 3 * size] = kept_of(sum, n);
    if (gates_only) continue;
    give(p, e, e.t < lengths[e.b], blend(p, z_value, n, h[e.state]), h, after, y);
  }
}

// The gate is kept as the sum: so any neuron's derivative can be had.
kernel void rnn_step(constant RecurrentParameters& p [[buffer(0)]],
                     device const CAREFUL float* h [[buffer(1)]],
                     device const CAREFUL T* r [[buffer(2)]],
                     device const CAREFUL T* bias [[buffer(3)]],
                     device const CAREFUL int* lengths [[buffer(4)]],
                     device float* gates [[buffer(5)]], device float* after [[buffer(6)]],
                     device T* y [[buffer(7)]], uint3 group [[threadgroup_position_in_grid]],
                     uint thread_index [[thread_index_in_threadgroup]],
                     uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<1, false>(p, h, r, shared, group, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    float sum = gates[e.gate] + sum_of<1>(shared, at, 0) + float(bias[e.unit]);
    gates[e.gate] = sum;
    if (gates_only) continue;
    float value = neuron_at(p, 0, sum);
    give(p, e, e.t < lengths[e.b], value, h, after, y);
  }
}

kernel void widen(constant int& count [[buffer(0)]], device const CAREFUL T* x [[buffer(1)]],
                  device float* y [[buffer(2)]], uint first [[thread_position_in_grid]],
                  uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(count); i += step) y[i] = float(x[i]);
}

kernel void narrow(constant int& count [[buffer(0)]], device const CAREFUL float* x [[buffer(1)]],
                   device T* y [[buffer(2)]], uint first [[thread_position_in_grid]],
                   uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(count); i += step) y[i] = T(x[i]);
}

// [time, batch, hidden]: the state that each step begins with.
kernel void states_before(constant StatesParameters& p [[buffer(0)]],
                          device const CAREFUL T* h0 [[buffer(1)]],
                          device const CAREFUL T* y [[buffer(2)]],
                          device float* before [[buffer(3)]],
                          uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step) {
    int state = int(i) % (p.batch * p.hidden), t = int(i) / (p.batch * p.hidden);
    int b = state / p.hidden, unit = state % p.hidden;
    before[i] = t == p.first_step ? float(h0[state])
                                  : float(y[(b * p.time + t + p.before) * p.hidden + unit]);
  }
}
