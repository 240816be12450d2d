// The LSTM whose peepholes are matrices, [3, hidden, hidden]: gates i and f see all of the cell
// before, and o all of the new one, for which a step takes a second launch each way. Gates are kept
// as the sums; `before`, `made` and `cells` have a row for each of the launch's.
#include "recurrent.h"

// Sums of all gates, that of o without the new cell's share; and the new cell, though the row may
// have ended.
kernel void lstm_cells(constant RecurrentParameters& p [[buffer(0)]],
                       device const CAREFUL float* h [[buffer(1)]],
                       device const CAREFUL T* r [[buffer(2)]],
                       device const CAREFUL T* bias [[buffer(3)]],
                       device const CAREFUL T* peephole [[buffer(4)]],
                       device const CAREFUL float* before [[buffer(5)]],
                       device float* gates [[buffer(6)]], device float* made [[buffer(7)]],
                       uint3 group [[threadgroup_position_in_grid]],
                       uint thread_index [[thread_index_in_threadgroup]],
                       uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  Sums<float> sums[4];
  clear_all<4>(sums);
  multiply<4, false>(p, recurrent_product(p), h, r, shared, sums, group, thread_index, simd);
  multiply<2, false>(p, square_product(p, 0, p.hidden, 0), before, peephole, shared, sums, group,
                     thread_index, simd);
  share<4>(sums, shared, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    int n = p.hidden, own = e.row * n + e.unit;
    float v[4];
    for (int g = 0; g < 4; g++) {
      v[g] = gates[e.gate + g * n] + sum_of<4>(shared, at, g) + float(bias[g * n + e.unit]);
      gates[e.gate + g * n] = v[g];
    }
    if (gates_only) continue;
    made[own] =
        gate_of_sum(p, v[1]) * before[own] + gate_of_sum(p, v[0]) * candidate_of_sum(p, v[2]);
  }
}

// The sum of o, and the new states. `cells` may be `before`: each element is read before it is
// written.
kernel void lstm_outputs(
    constant RecurrentParameters& p [[buffer(0)]], device const CAREFUL float* made [[buffer(1)]],
    device const CAREFUL T* peephole [[buffer(2)]], device const CAREFUL int* lengths [[buffer(3)]],
    device const CAREFUL float* h [[buffer(4)]], device const CAREFUL float* before [[buffer(5)]],
    device float* gates [[buffer(6)]], device float* cells [[buffer(7)]],
    device float* after [[buffer(8)]], device T* y [[buffer(9)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  Sums<float> sums[1];
  clear_all<1>(sums);
  multiply<1, false>(p, square_product(p, 0, p.hidden, 0), made, peephole + 2 * p.hidden * p.hidden,
                     shared, sums, group, thread_index, simd);
  share<1>(sums, shared, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    int gate = e.gate + 3 * p.hidden;
    float sum = gates[gate] + sum_of<1>(shared, at, 0);
    gates[gate] = sum;
    if (gates_only) continue;
    int own = e.row * p.hidden + e.unit;
    bool alive = e.t < lengths[e.b];
    cells[own] = alive ? made[own] : before[own];
    give(p, e, alive, gate_of_sum(p, sum) * output_of(p, made[own]), h, after, y);
  }
}

// What the step after sends to the cells through gates i and f, of which `a` holds the gradients.
inline void peephole_products(constant RecurrentParameters& p, device const CAREFUL float* a,
                              device const CAREFUL T* peephole, threadgroup float* shared,
                              thread Sums<float>* sums, uint3 group, uint thread_index, uint simd) {
  if (p.depth == 0) return;  // there is none
  for (int g = 0; g < 2; g++)
    multiply<1, true>(p, square_product(p, p.a_row, p.width, g * p.hidden), a,
                      peephole + g * p.hidden * p.hidden, shared, sums, group, thread_index, simd);
}

// The gradient of o. `dc` takes what comes to the new cell, but by the sum of o.
kernel void lstm_outputs_backward(
    constant RecurrentParameters& p [[buffer(0)]], device const CAREFUL float* a [[buffer(1)]],
    device const CAREFUL T* r [[buffer(2)]], device const CAREFUL T* dy [[buffer(3)]],
    device const CAREFUL int* lengths [[buffer(4)]], device const CAREFUL T* peephole [[buffer(5)]],
    device const CAREFUL float* cells [[buffer(6)]],
    device const CAREFUL float* gates [[buffer(7)]], device float* dgates [[buffer(8)]],
    device float* dh [[buffer(9)]], device float* dc [[buffer(10)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  Sums<float> sums[2];
  clear_all<2>(sums);
  multiply<1, true>(p, recurrent_product(p), a, r, shared, sums, group, thread_index, simd);
  peephole_products(p, a, peephole, shared, sums + 1, group, thread_index, simd);
  share<2>(sums, shared, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    float d = dh[e.state] + sum_of<2>(shared, at, 0) + float(dy[e.y]);
    float dcell = dc[e.state] + sum_of<2>(shared, at, 1);
    bool alive = e.t < lengths[e.b];
    if (alive) {
      int gate = e.gate + 3 * p.hidden;
      float kept = gates[gate], c = cells[e.kept];
      dcell += d * gate_of(p, kept) * slope_at(p, 2, c);
      dgates[gate] = d * output_of(p, c) * gate_slope(p, kept);
    } else {
      zero_gates(p, e, dgates);
    }
    dc[e.state] = dcell;
    dh[e.state] = alive ? 0.0f : d;
  }
}

// The gradients of i, f and g, when that of o is known.
kernel void lstm_cells_backward(constant RecurrentParameters& p [[buffer(0)]],
                                device const CAREFUL float* a [[buffer(1)]],
                                device const CAREFUL T* peephole [[buffer(2)]],
                                device const CAREFUL int* lengths [[buffer(3)]],
                                device const CAREFUL float* before [[buffer(4)]],
                                device const CAREFUL float* gates [[buffer(5)]],
                                device float* dgates [[buffer(6)]], device float* dc [[buffer(7)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint thread_index [[thread_index_in_threadgroup]],
                                uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  Sums<float> sums[1];
  clear_all<1>(sums);
  multiply<1, true>(p, square_product(p, p.gate_row, p.width, 3 * p.hidden), a,
                    peephole + 2 * p.hidden * p.hidden, shared, sums, group, thread_index, simd);
  share<1>(sums, shared, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside || e.t >= lengths[e.b]) continue;
    int n = p.hidden;
    float i = gates[e.gate], f = gates[e.gate + n], g = gates[e.gate + 2 * n];
    float dcell = dc[e.state] + sum_of<1>(shared, at, 0);
    dgates[e.gate] = dcell * candidate_of(p, g) * gate_slope(p, i);
    dgates[e.gate + n] = dcell * before[e.kept] * gate_slope(p, f);
    dgates[e.gate + 2 * n] = dcell * gate_of(p, i) * candidate_slope(p, g);
    dc[e.state] = dcell * gate_of(p, f);
  }
}

// The gradient of the first cell.
kernel void cell_gradient(constant RecurrentParameters& p [[buffer(0)]],
                          device const CAREFUL float* a [[buffer(1)]],
                          device const CAREFUL T* peephole [[buffer(2)]],
                          device const CAREFUL float* dc [[buffer(3)]], device T* dc0 [[buffer(4)]],
                          uint3 group [[threadgroup_position_in_grid]],
                          uint thread_index [[thread_index_in_threadgroup]],
                          uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  Sums<float> sums[1];
  clear_all<1>(sums);
  peephole_products(p, a, peephole, shared, sums, group, thread_index, simd);
  share<1>(sums, shared, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (e.inside) dc0[e.state] = T(dc[e.state] + sum_of<1>(shared, at, 0));
  }
}

// [time, batch, hidden]: the cells that each step begins with.
kernel void cells_before(constant StatesParameters& p [[buffer(0)]],
                         device const CAREFUL T* c0 [[buffer(1)]],
                         device const CAREFUL float* cells [[buffer(2)]],
                         device float* before [[buffer(3)]], uint first [[thread_position_in_grid]],
                         uint step [[threads_per_grid]]) {
  int layer = p.batch * p.hidden;
  for (uint i = first; i < uint(p.count); i += step)
    before[i] = int(i) / layer == p.first_step ? float(c0[int(i) % layer])
                                               : cells[int(i) + p.before * layer];
}
