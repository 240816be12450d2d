// A step's product with the recurrent weights, in tiles of some rows by eight units, all gates of a
// unit in one threadgroup: so what follows the product needs no second launch.
#pragma once
#include "neuron.h"
#include "recurrent_parameters.h"
#include "sums.h"

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

// A product of a step: `depth` numbers of a row of a, from a column on and with a gap, times parts
// of r that lie `r_gate` apart.
struct Product {
  int depth, a_row, a_width, a_column, gap_from, gap;
  int r_row, r_gate, r_column;
};

// That with the recurrent weights.
inline Product recurrent_product(constant RecurrentParameters& p) {
  Product q;
  q.depth = p.depth;
  q.a_row = p.a_row;
  q.a_width = p.a_width;
  q.a_column = p.a_column;
  q.gap_from = p.gap_from;
  q.gap = p.gap;
  q.r_row = p.columns;
  q.r_gate = p.hidden;
  q.r_column = p.r_column;
  return q;
}

// One with square matrices, one after the other in memory: of the rows from `a_row` on of a.
inline Product square_product(constant RecurrentParameters& p, int a_row, int a_width,
                              int a_column) {
  Product q;
  q.depth = p.hidden;
  q.a_row = a_row;
  q.a_width = a_width;
  q.a_column = a_column;
  q.gap_from = p.hidden;
  q.gap = 0;
  q.r_row = p.hidden;
  q.r_gate = p.hidden * p.hidden;
  q.r_column = 0;
  return q;
}

template <int gates>
inline void clear_all(thread Sums<float>* sums) {
  for (int g = 0; g < gates; g++) clear(sums[g]);
}

// Adds to the sums a product with `gates` parts of r, or with its transpose.
template <int gates, bool transposed>
inline void multiply(constant RecurrentParameters& p, Product q, device const CAREFUL float* a,
                     device const CAREFUL T* r, threadgroup float* shared, thread Sums<float>* sums,
                     uint3 group, uint thread_index, uint simd) {
  const int depth = 4 / row_simds * kBlock;
  const int first_row = int(group.y) * row_simds * 8, first_unit = int(group.x) * kUnits;
  threadgroup float* left = shared;
  threadgroup float* right = shared + kLeft;
  const int my_row = int(simd) % row_simds * 8, my_part = int(simd) / row_simds;

  for (CAREFUL int from = 0; from < q.depth; from += depth) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = int(thread_index); i < kLeft; i += kThreads) {
      int row = first_row + i / depth, k = from + i % depth;
      int column = q.a_column + k + (k >= q.gap_from ? q.gap : 0);
      bool inside = row < p.rows && k < q.depth;
      left[i] = inside ? a[(q.a_row + row) * q.a_width + column] : 0.0f;
    }
    for (int i = int(thread_index); i < depth * kUnits * gates; i += kThreads) {
      // Neighbouring threads read neighbouring numbers.
      int inner = transposed ? i % depth : i / (kUnits * gates);
      int column = transposed ? i / depth : i % (kUnits * gates);
      int k = from + inner, unit = first_unit + column % kUnits;
      int at = transposed ? unit * q.r_row + q.r_column + k
                          : k * q.r_row + q.r_column + column / kUnits * q.r_gate + unit;
      bool inside = k < q.depth && unit < p.hidden;
      right[inner * kUnits * gates + column] = inside ? float(r[at]) : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
#ifdef SECOND_FORM
    for (int g = 0; g < gates; g++)
      add_product(sums[g], left + my_row * depth + my_part * kBlock, depth,
                  right + my_part * kBlock * kUnits * gates + g * kUnits, kUnits * gates, kBlock,
                  thread_index);
#else
    for (int step = my_part * kBlock; step < (my_part + 1) * kBlock; step += 8) {
      simdgroup_float8x8 x, y;
      simdgroup_load(x, left + my_row * depth + step, depth);
      for (int g = 0; g < gates; g++) {
        simdgroup_load(y, right + step * kUnits * gates + g * kUnits, kUnits * gates);
        simdgroup_multiply_accumulate(sums[g], x, y, sums[g]);
      }
    }
#endif
  }
}

// Leaves the sums in `shared` for sum_of.
template <int gates>
inline void share(thread Sums<float>* sums, threadgroup float* shared, uint thread_index,
                  uint simd) {
  const int rows = row_simds * 8;
  const int my_row = int(simd) % row_simds * 8, my_part = int(simd) / row_simds;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  threadgroup float* to = shared + (my_part * rows + my_row) * kUnits * gates;
  for (int g = 0; g < gates; g++) store(sums[g], to + g * kUnits, kUnits * gates, thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// The sums of the recurrent product alone.
template <int gates, bool transposed>
inline void step_product(constant RecurrentParameters& p, device const CAREFUL float* a,
                         device const CAREFUL T* r, threadgroup float* shared, uint3 group,
                         uint thread_index, uint simd) {
  Sums<float> sums[gates];
  clear_all<gates>(sums);
  multiply<gates, transposed>(p, recurrent_product(p), a, r, shared, sums, group, thread_index,
                              simd);
  share<gates>(sums, shared, thread_index, simd);
}

// Element i of the tile, of one of the gates.
template <int gates>
inline float sum_of(threadgroup float* shared, int i, int gate) {
  const int rows = row_simds * 8;
  float sum = 0;
  for (CAREFUL int part = 0; part < 4 / row_simds; part++)
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

// The new state: rows that have ended keep theirs.
inline void give(constant RecurrentParameters& p, Element e, bool alive, float value,
                 device const CAREFUL float* h, device float* after, device T* y) {
  float state = alive ? value : h[e.state];
  after[e.state] = state;
  y[e.y] = T(state);
}

// Of a row that has ended.
inline void zero_gates(constant RecurrentParameters& p, Element e, device float* dgates) {
  for (int column = 0; column < p.width; column += p.hidden) dgates[e.gate + column] = 0.0f;
}
