// What the forward and the backward steps of a recurrent cell share: who does which rows, and where
// the products' operands lie. Include only from files of loops/.
#pragma once

#include "panels.h"
#include "parallel.h"
#include "recurrent_cells.h"
#include "recurrent_steps.h"

namespace jax_mps::cpu::JAX_MPS_ISA {

extern const NeuronLoops neuron_loops_table;

namespace {

using Cell = RecurrentCell;
using Shape = RecurrentShape;
using Steps = RecurrentSteps;

constexpr int64_t kSmallStep = 128 * 1024;  // multiply-adds below which one thread is faster

// Whether all threads share a step's work.
inline bool shared_steps(const Shape& s) {
  return s.parts == 1 && s.batch * s.hidden * s.columns >= kSmallStep;
}

// Gates of the cell that the first product gives, and whether there is a second one, of one gate.
constexpr int first_gates(Cell cell) {
  switch (cell) {
    case Cell::lstm:
      return 4;
    case Cell::gru_after:
      return 3;
    case Cell::gru:
      return 2;
    default:
      return 1;
  }
}
constexpr bool has_second(Cell cell) { return cell == Cell::gru || cell == Cell::mgu; }

inline int64_t minimum_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t align(int64_t floats) { return (floats + 15) / 16 * 16; }

// f.template operator()<cell>()
template <class F>
inline void with_cell(Cell cell, const F& f) {
  switch (cell) {
    case Cell::lstm:
      return f.template operator()<Cell::lstm>();
    case Cell::gru:
      return f.template operator()<Cell::gru>();
    case Cell::gru_after:
      return f.template operator()<Cell::gru_after>();
    case Cell::mgu:
      return f.template operator()<Cell::mgu>();
    case Cell::rnn:
      return f.template operator()<Cell::rnn>();
  }
}

// Vectors of a tile of the forward products: the gates of a unit, or half of an LSTM's where the
// batch has more rows than a strip of all four would.
constexpr int kFewRows = 3;
constexpr int tall_vectors(Cell cell) {
  return first_gates(cell) == 4 && strip_height(4) <= kFewRows ? 2 : first_gates(cell);
}
inline int forward_vectors(const Shape& s) {
  return s.batch / s.parts > kFewRows ? tall_vectors(s.cell) : first_gates(s.cell);
}

// Vectors of a panel, and of a tile, of the backward products: the more, the fewer rows a strip
// has.
inline int backward_vectors(const Shape& s) {
  if (s.batch / s.parts <= strip_height(4)) return 4;
  return panel_count(s.hidden, 1) > 1 ? 2 : 1;
}

// Rows of the batch that go through the steps together.
struct Part {
  int64_t index;
  int64_t row, rows;
  bool shared;  // by all threads

  Part(const Shape& s, int64_t index)
      : index(index),
        row(index * s.batch / s.parts),
        rows((index + 1) * s.batch / s.parts - row),
        shared(shared_steps(s)) {}
};

// The work memory: panels of r, and for each part strips of what the products take, the first in
// two places by turns.
struct Work {
  float *panels[2], *strips[2], *second;
  int64_t floats = 0;
  Depth depth[2];  // of the products

  Work(const Shape& s, float* base, bool backward, int part = 0) {
    auto take = [&](int64_t size, int parts, int part) {
      float* p = base ? base + floats + part * align(size) : nullptr;
      floats += parts * align(size);
      return p;
    };
    const bool two = has_second(s.cell);
    const int64_t rows = (s.batch + s.parts - 1) / s.parts;
    depth[0] = {backward ? first_gates(s.cell) : 1, s.hidden}, depth[1] = {1, s.hidden};
    if (!backward && s.inputs) depth[0].lead = s.inputs + 1;  // and the bias
    const int first_width = backward ? backward_vectors(s) : first_gates(s.cell);
    const int first_vectors = backward ? first_width : forward_vectors(s);
    const int second_width = backward ? first_width : 1;
    auto panels_floats = [&](int width, Depth depth) {
      return panel_count(s.hidden, backward ? width : 1) * width * kLanes * kLanes * depth.blocks();
    };
    panels[0] = take(panels_floats(first_width, depth[0]), 1, 0);
    panels[1] = take(two ? panels_floats(second_width, depth[1]) : 0, 1, 0);
    for (float*& strip : strips)
      strip = take(Strips(rows, first_vectors).floats(depth[0]), s.parts, part);
    second = take(two ? Strips(rows, second_width).floats(depth[1]) : 0, s.parts, part);
  }
};

// f(steps, work, part) for each part of the rows, with the arrays from its first row on.
template <class F>
inline void over_parts(const Steps& steps, bool backward, const F& f) {
  const Shape& s = steps.shape;
  auto run = [&](int64_t index) __attribute__((noinline)) {
    const Part part(s, index);
    Steps own = steps;
    const int64_t at = part.row * s.hidden;
    auto move = [](auto*& p, int64_t by) { p = p ? p + by : p; };
    move(own.lengths, part.row);
    move(own.x, part.row * steps.time * s.inputs);
    move(own.gates, part.row * s.width), move(own.dgates, part.row * s.dgates_stride);
    move(own.y, at * steps.time), move(own.dy, at * steps.time);
    move(own.c0, at), move(own.cells, at), move(own.h, at);
    move(own.h_before, at), move(own.reset, at), move(own.dh, at), move(own.dc, at);
    f(own, Work(s, steps.work, backward, index), part);
  };
  if (s.parts == 1) return run(0);
  if (steps.count * s.batch * s.hidden * s.columns < kSmallStep) {
    for (int index = 0; index < s.parts; index++) run(index);
    return;
  }
  parallel(s.parts, kSmall, run);
}

inline bool alive(const Steps& s, int64_t row, int64_t t) {
  return !s.lengths || t < s.lengths[row];
}

inline const float* cell_before(const Steps& s, int64_t t) {
  const int64_t before = t + (s.reverse ? 1 : -1);
  if (before < 0 || before >= s.time) return s.c0;
  return s.cells + (s.cells_kept ? before * s.shape.batch * s.shape.hidden : 0);
}

// f.template operator()<N>(n): N = n for whole vectors.
template <class F>
inline void with_units(int64_t n, const F& f) {
  n == kLanes ? f.template operator()<kLanes>(kLanes) : f.template operator()<0>(n);
}

inline void copy(const float* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t j = 0; j < n; j++) to[j] = from[j];
}

// Zeros in `count` rows of lanes, where the units (N if they are a whole vector) do not fill them.
template <int N>
inline void clear(float* rows, int64_t count) {
  for (int64_t j = 0; N == 0 && j < count * kLanes; j++) rows[j] = 0;
}

// The vectors at unit `unit` of all `parts` of a row. What is in a line before their last numbers'
// belongs to the vectors before them.
inline void touch(Ahead& ahead, const float* row, int64_t unit, int64_t hidden, int64_t parts) {
  for (int64_t i = 0; i < parts; i++) ahead.add(row + i * hidden + unit + kLanes - 1);
}

inline void nothing(int64_t, int64_t, int64_t, Ahead&) {}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
