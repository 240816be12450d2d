// Back through the steps of recurrent cells: the product brings a state's gradient from the step
// after, whose gates' gradients are `a`; `dh` has what came by other ways, and takes what passes
// by this step. `dgates` may be `gates`: each element is read before it is written.
#include "recurrent.h"

kernel void lstm_backward(
    constant RecurrentParameters& p [[buffer(0)]], device const CAREFUL float* a [[buffer(1)]],
    device const CAREFUL T* r [[buffer(2)]], device const CAREFUL T* dy [[buffer(3)]],
    device const CAREFUL int* lengths [[buffer(4)]], device const CAREFUL T* peephole [[buffer(5)]],
    device const CAREFUL T* c0 [[buffer(6)]], device const CAREFUL float* cells [[buffer(7)]],
    device const CAREFUL float* gates [[buffer(8)]], device float* dgates [[buffer(9)]],
    device float* dh [[buffer(10)]], device float* dc [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<1, true>(p, a, r, shared, group, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    float d = dh[e.state] + sum_of<1>(shared, at, 0) + float(dy[e.y]);
    if (e.t >= lengths[e.b]) {
      zero_gates(p, e, dgates);
      dh[e.state] = d;
      continue;
    }
    int n = p.hidden;
    float before =
        e.t == p.first_step ? float(c0[e.state]) : cells[e.kept + p.before * p.batch * p.hidden];
    float kept_i = gates[e.gate], kept_f = gates[e.gate + n];
    float kept_g = gates[e.gate + 2 * n], kept_o = gates[e.gate + 3 * n];
    float i = gate_of(p, kept_i), f = gate_of(p, kept_f);
    float g = candidate_of(p, kept_g), o = gate_of(p, kept_o);
    float t = output_of(p, cells[e.kept]);
    float output_slope = kinds == 0 ? 1.0f - t * t : slope_at(p, 2, cells[e.kept]);
    float d_o = d * t * gate_slope(p, kept_o);
    float dcell = dc[e.state] + d * o * output_slope;
    if (has_extra) dcell += d_o * float(peephole[2 * n + e.unit]);
    float di = dcell * g * gate_slope(p, kept_i);
    float df = dcell * before * gate_slope(p, kept_f);
    float through = dcell * f;
    if (has_extra) through += di * float(peephole[e.unit]) + df * float(peephole[n + e.unit]);
    dgates[e.gate] = di;
    dgates[e.gate + n] = df;
    dgates[e.gate + 2 * n] = dcell * i * candidate_slope(p, kept_g);
    dgates[e.gate + 3 * n] = d_o;
    dc[e.state] = through;
    dh[e.state] = 0.0f;
  }
}

// The gradients of the new state's parts, common to all gated units.
struct Blend {
  float dz, dn, pass;  // of z itself, of the candidate's sum, of the state before
};

inline Blend blend_backward(constant RecurrentParameters& p, float d, float z, float candidate,
                            float before) {
  float kept = keep(z, p.p), n = candidate_of(p, candidate), slope = keep_derivative(z, p.p);
  Blend blend;
  blend.dz = d * (p.flip ? slope * before + n : slope * n + before);
  blend.dn = d * (p.flip ? z : kept) * candidate_slope(p, candidate);
  blend.pass = d * (p.flip ? kept : z);
  return blend;
}

// Gates z, r, m, n give gradients in the order z, r, n, m: those of the inputs lie together.
kernel void gru_after_backward(constant RecurrentParameters& p [[buffer(0)]],
                               device const CAREFUL float* a [[buffer(1)]],
                               device const CAREFUL T* r [[buffer(2)]],
                               device const CAREFUL T* dy [[buffer(3)]],
                               device const CAREFUL int* lengths [[buffer(4)]],
                               device const CAREFUL float* before [[buffer(5)]],
                               device const CAREFUL float* gates [[buffer(6)]],
                               device float* dgates [[buffer(7)]], device float* dh [[buffer(8)]],
                               uint3 group [[threadgroup_position_in_grid]],
                               uint thread_index [[thread_index_in_threadgroup]],
                               uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<1, true>(p, a, r, shared, group, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    float d = dh[e.state] + sum_of<1>(shared, at, 0) + float(dy[e.y]);
    if (e.t >= lengths[e.b]) {
      zero_gates(p, e, dgates);
      dh[e.state] = d;
      continue;
    }
    int size = p.hidden;
    float z = gates[e.gate], reset = gates[e.gate + size];
    float m = gates[e.gate + 2 * size], candidate = gates[e.gate + 3 * size];
    Blend blend = blend_backward(p, d, gate_of(p, z), candidate, before[e.kept]);
    dgates[e.gate] = blend.dz * gate_slope(p, z);
    dgates[e.gate + size] = blend.dn * m * gate_slope(p, reset);
    dgates[e.gate + 2 * size] = blend.dn;
    dgates[e.gate + 3 * size] = blend.dn * gate_of(p, reset);
    dh[e.state] = blend.pass;
  }
}

// The candidate's gradient; that of z is complete if the candidate does not see it, else `raw`
// keeps its part.
kernel void gru_backward(
    constant RecurrentParameters& p [[buffer(0)]], device const CAREFUL float* a [[buffer(1)]],
    device const CAREFUL T* r [[buffer(2)]], device const CAREFUL T* dy [[buffer(3)]],
    device const CAREFUL int* lengths [[buffer(4)]],
    device const CAREFUL float* before [[buffer(5)]],
    device const CAREFUL float* gates [[buffer(6)]], device float* dgates [[buffer(7)]],
    device float* dh [[buffer(8)]], device float* raw [[buffer(9)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<1, true>(p, a, r, shared, group, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    float d = dh[e.state] + sum_of<1>(shared, at, 0) + float(dy[e.y]);
    if (e.t >= lengths[e.b]) {
      zero_gates(p, e, dgates);
      dh[e.state] = d;
      continue;
    }
    int candidate = e.gate + p.width - p.hidden;
    float z = gates[e.gate];
    Blend blend = blend_backward(p, d, gate_of(p, z), gates[candidate], before[e.kept]);
    if (p.width == 3 * p.hidden && !has_extra)
      dgates[e.gate] = blend.dz * gate_slope(p, z);
    else
      raw[e.state] = blend.dz;
    dgates[candidate] = blend.dn;
    dh[e.state] = blend.pass;
  }
}

// The gradients of the gates that the candidate sees, from the candidate's; and what it saw, again.
kernel void gru_gates_backward(
    constant RecurrentParameters& p [[buffer(0)]], device const CAREFUL float* a [[buffer(1)]],
    device const CAREFUL T* r [[buffer(2)]], device const CAREFUL T* memory [[buffer(3)]],
    device const CAREFUL int* lengths [[buffer(4)]],
    device const CAREFUL float* before [[buffer(5)]], device const CAREFUL float* raw [[buffer(6)]],
    device const CAREFUL float* gates [[buffer(7)]], device float* dgates [[buffer(8)]],
    device float* dh [[buffer(9)]], device float* reset [[buffer(10)]],
    device float* update [[buffer(11)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  Sums<float> sums[2];
  clear_all<2>(sums);
  multiply<1, true>(p, recurrent_product(p), a, r, shared, sums, group, thread_index, simd);
  if (has_extra)
    multiply<1, true>(p, square_product(p, p.gate_row, p.width, p.a_column), a, memory, shared,
                      sums + 1, group, thread_index, simd);
  share<2>(sums, shared, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    if (e.t >= lengths[e.b]) {
      reset[e.kept] = 0.0f;
      if (has_extra) update[e.kept] = 0.0f;
      continue;
    }
    bool two = p.width == 3 * p.hidden;  // else z itself resets
    int gate = e.gate + (two ? p.hidden : 0);
    float kept = gates[gate], v = gate_of(p, kept), d = sum_of<2>(shared, at, 0);
    float h = before[e.kept];
    reset[e.kept] = v * h;
    dgates[gate] = (two ? d * h : raw[e.state] + d * h) * gate_slope(p, kept);
    float through = d * v;
    if (has_extra) {
      float z = gates[e.gate], z_value = gate_of(p, z), dz = sum_of<2>(shared, at, 1);
      update[e.kept] = z_value * h;
      dgates[e.gate] = (raw[e.state] + dz * h) * gate_slope(p, z);
      through += dz * z_value;
    }
    dh[e.state] += through;
  }
}

kernel void rnn_backward(constant RecurrentParameters& p [[buffer(0)]],
                         device const CAREFUL float* a [[buffer(1)]],
                         device const CAREFUL T* r [[buffer(2)]],
                         device const CAREFUL T* dy [[buffer(3)]],
                         device const CAREFUL int* lengths [[buffer(4)]],
                         device const CAREFUL float* gates [[buffer(5)]],
                         device float* dgates [[buffer(6)]], device float* dh [[buffer(7)]],
                         uint3 group [[threadgroup_position_in_grid]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<1, true>(p, a, r, shared, group, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (!e.inside) continue;
    float d = dh[e.state] + sum_of<1>(shared, at, 0) + float(dy[e.y]);
    bool alive = e.t < lengths[e.b];
    float slope = slope_at(p, 0, gates[e.gate]);
    dgates[e.gate] = alive ? d * slope : 0.0f;
    dh[e.state] = alive ? 0.0f : d;
  }
}

// The gradient of the first state.
kernel void state_gradient(constant RecurrentParameters& p [[buffer(0)]],
                           device const CAREFUL float* a [[buffer(1)]],
                           device const CAREFUL T* r [[buffer(2)]],
                           device const CAREFUL float* dh [[buffer(3)]],
                           device T* dh0 [[buffer(4)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float shared[kShared];
  step_product<1, true>(p, a, r, shared, group, thread_index, simd);
  for (int at = int(thread_index); at < tile_elements(); at += kThreads) {
    Element e = element(p, group, at);
    if (e.inside) dh0[e.state] = T(dh[e.state] + sum_of<1>(shared, at, 0));
  }
}

// Parts of the sums over all steps and rows, for the three peepholes.
kernel void peephole_gradient(constant PeepholeParameters& p [[buffer(0)]],
                              device const CAREFUL float* dgates [[buffer(1)]],
                              device const CAREFUL T* c0 [[buffer(2)]],
                              device const CAREFUL float* cells [[buffer(3)]],
                              device float* partial [[buffer(4)]],
                              uint thread_index [[thread_position_in_grid]]) {
  int columns = 3 * p.hidden;
  if (int(thread_index) >= columns * p.parts) return;
  int column = int(thread_index) % columns, layer = p.batch * p.hidden;
  int gate = column / p.hidden, unit = column % p.hidden;
  float sum = 0;
  for (CAREFUL int row = int(thread_index) / columns; row < p.rows; row += p.parts) {
    int state = row % p.batch * p.hidden + unit, t = row / p.batch;
    int at = t * layer + state;
    if (gate == 2) {
      sum += dgates[row * p.width + 3 * p.hidden + unit] * cells[at];
    } else {
      float before = t == p.first_step ? float(c0[state]) : cells[at + p.before * layer];
      sum += dgates[row * p.width + gate * p.hidden + unit] * before;
    }
  }
  partial[thread_index] = sum;
}
