// A step's product with the recurrent weights, in tiles of some rows by eight units, all gates of a
// unit in one threadgroup: so what follows the product needs no second launch.
#pragma once
#include "neuron.h"
#include "recurrent_parameters.h"

// Of the four SIMD-groups so many work on rows of their own; the others halve or quarter the depth.
constant int row_simds [[function_constant(0)]];
constant int has_extra [[function_constant(1)]];
constant int gates_only [[function_constant(2)]];  // the states are known already
constant int kinds [[function_constant(3)]];       // of the neurons, four bits each; 0: plain

constant constexpr int kThreads = 128;
constant constexpr int kUnits = 8;
constant constexpr int kBlock = 16;             // of the depth, for one SIMD-group
constant constexpr int kLeft = 4 * 8 * kBlock;  // numbers of a's tile
constant constexpr int kMostGates = 4;
constant constexpr int kShared = kLeft + 4 * kBlock * kUnits * kMostGates;

// An element of a row and a unit, and where what belongs to it lies.
struct Element {
  int row, unit, t, b;
  int gate;   // of its first gate
  int state;  // in [batch, hidden]
  int kept;   // in [time, batch, hidden]
  int y;      // in [batch, time, hidden]
  bool inside;
};

inline Element element(constant RecurrentParameters& p, uint3 group, int i) {
  Element e;
  e.row = int(group.y) * row_simds * 8 + i / kUnits;
  e.unit = int(group.x) * kUnits + i % kUnits;
  e.inside = e.row < p.rows && e.unit < p.hidden;
  e.b = e.row % p.batch;
  e.t = p.step + e.row / p.batch;
  e.gate = (p.gate_row + e.row) * p.width + e.unit;
  e.state = e.b * p.hidden + e.unit;
  e.kept = e.t * p.batch * p.hidden + e.state;
  e.y = (e.b * p.time + e.t) * p.hidden + e.unit;
  return e;
}

// The sums of `gates` parts of r, or with its transpose: left in `shared` for sum_of.
template <int gates, bool transposed>
inline void step_product(constant RecurrentParameters& p, device const float* a, device const T* r,
                         threadgroup float* shared, uint3 group, uint thread_index, uint simd) {
  const int rows = row_simds * 8, depth = 4 / row_simds * kBlock;
  const int first_row = int(group.y) * rows, first_unit = int(group.x) * kUnits;
  threadgroup float* left = shared;
  threadgroup float* right = shared + kLeft;
  simdgroup_float8x8 sums[gates];
  for (int g = 0; g < gates; g++) sums[g] = make_filled_simdgroup_matrix<float, 8, 8>(0);
  const int my_row = int(simd) % row_simds * 8, my_part = int(simd) / row_simds;

  for (int from = 0; from < p.depth; from += depth) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = int(thread_index); i < kLeft; i += kThreads) {
      int row = first_row + i / depth, k = from + i % depth;
      int column = p.a_column + k + (k >= p.gap_from ? p.gap : 0);
      bool inside = row < p.rows && k < p.depth;
      left[i] = inside ? a[(p.a_row + row) * p.a_width + column] : 0.0f;
    }
    for (int i = int(thread_index); i < depth * kUnits * gates; i += kThreads) {
      // Neighbouring threads read neighbouring numbers.
      int inner = transposed ? i % depth : i / (kUnits * gates);
      int column = transposed ? i / depth : i % (kUnits * gates);
      int k = from + inner, unit = first_unit + column % kUnits;
      int at = transposed ? unit * p.columns + p.r_column + k
                          : k * p.columns + p.r_column + column / kUnits * p.hidden + unit;
      bool inside = k < p.depth && unit < p.hidden;
      right[inner * kUnits * gates + column] = inside ? float(r[at]) : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int step = my_part * kBlock; step < (my_part + 1) * kBlock; step += 8) {
      simdgroup_float8x8 x, y;
      simdgroup_load(x, left + my_row * depth + step, depth);
      for (int g = 0; g < gates; g++) {
        simdgroup_load(y, right + step * kUnits * gates + g * kUnits, kUnits * gates);
        simdgroup_multiply_accumulate(sums[g], x, y, sums[g]);
      }
    }
  }

  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int g = 0; g < gates; g++)
    simdgroup_store(sums[g], shared + (my_part * rows + my_row) * kUnits * gates + g * kUnits,
                    kUnits * gates);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// Element i of the tile, of one of the gates.
template <int gates>
inline float sum_of(threadgroup float* shared, int i, int gate) {
  const int rows = row_simds * 8;
  float sum = 0;
  for (int part = 0; part < 4 / row_simds; part++)
    sum += shared[((part * rows + i / kUnits) * gates + gate) * kUnits + i % kUnits];
  return sum;
}

inline int tile_elements() { return row_simds * 8 * kUnits; }

// (1 - z^p)^(1/p) and its derivative.
inline float keep(float z, float p) {
  return p == 1.0f ? 1.0f - z : pow(1.0f - pow(z, p), 1.0f / p);
}
inline float keep_derivative(float z, float p) {
  return p == 1.0f ? -1.0f : -pow(z, p - 1.0f) * pow(1.0f - pow(z, p), 1.0f / p - 1.0f);
}

// Plain cells have sigmoid gates and tanh, and keep what these give; others keep what their neurons
// take, of which any derivative can be had.
inline float neuron_at(constant RecurrentParameters& p, int i, float x) {
  return neuron_value(kinds >> 4 * i & 15, p.neurons[i].a, p.neurons[i].b, p.neurons[i].c,
                      p.neurons[i].log_c, x);
}
inline float slope_at(constant RecurrentParameters& p, int i, float x) {
  return neuron_derivative(kinds >> 4 * i & 15, p.neurons[i].a, p.neurons[i].b, p.neurons[i].c,
                           p.neurons[i].log_c, x);
}
inline float gate_of_sum(constant RecurrentParameters& p, float sum) {
  return kinds == 0 ? logistic(sum) : neuron_at(p, 0, sum);
}
inline float candidate_of_sum(constant RecurrentParameters& p, float sum) {
  return kinds == 0 ? precise::tanh(sum) : neuron_at(p, 1, sum);
}
inline float kept_of(float sum, float value) { return kinds == 0 ? value : sum; }
inline float gate_of(constant RecurrentParameters& p, float kept) {
  return kinds == 0 ? kept : neuron_at(p, 0, kept);
}
inline float candidate_of(constant RecurrentParameters& p, float kept) {
  return kinds == 0 ? kept : neuron_at(p, 1, kept);
}
inline float gate_slope(constant RecurrentParameters& p, float kept) {
  return kinds == 0 ? kept * (1.0f - kept) : slope_at(p, 0, kept);
}
inline float candidate_slope(constant RecurrentParameters& p, float kept) {
  return kinds == 0 ? 1.0f - kept * kept : slope_at(p, 1, kept);
}
inline float output_of(constant RecurrentParameters& p, float c) {
  return kinds == 0 ? precise::tanh(c) : neuron_at(p, 2, c);
}
