#include "recurrent_steps.h"

#include "panels.h"
#include "recurrent_cells.h"

namespace jax_mps::cpu::JAX_MPS_ISA {

extern const NeuronLoops neuron_loops_table;

namespace {

using Cell = RecurrentCell;
using Shape = RecurrentShape;
using Steps = RecurrentSteps;

constexpr int64_t kSmallStep = 128 * 1024;  // multiply-adds below which one thread is faster

// f() by all threads.
template <class F>
void region(const Shape& s, const F& f) {
  if (s.batch * s.hidden * s.columns < kSmallStep) return f();
#pragma omp parallel
  f();
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

int64_t minimum_of(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t align(int64_t floats) { return (floats + 15) / 16 * 16; }

// f.template operator()<cell>()
template <class F>
void with_cell(Cell cell, const F& f) {
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

// Vectors of a panel of the backward products: the more, the fewer rows a strip has; but no more
// than fill the last panel as well.
int backward_vectors(const Shape& s) {
  if (s.batch / s.parts <= strip_height(4)) return 4;
  return panel_count(s.hidden, 1) % 2 ? 1 : 2;
}

// Rows of the batch that go through the steps together.
struct Part {
  int index;
  int64_t row, rows;
  bool shared;  // by all threads

  Part(const Shape& s, int index)
      : index(index),
        row(index * s.batch / s.parts),
        rows((index + 1) * s.batch / s.parts - row),
        shared(s.parts == 1) {}
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
    const int vectors = backward_vectors(s);
    depth[0] = {backward ? first_gates(s.cell) : 1, s.hidden}, depth[1] = {1, s.hidden};
    const int first_vectors = backward ? vectors : first_gates(s.cell);
    const int second_vectors = backward ? vectors : 1;
    auto panels_floats = [&](int v, Depth depth) {
      return panel_count(s.hidden, backward ? v : 1) * v * kLanes * kLanes * depth.blocks();
    };
    panels[0] = take(panels_floats(first_vectors, depth[0]), 1, 0);
    panels[1] = take(two ? panels_floats(second_vectors, depth[1]) : 0, 1, 0);
    for (float*& strip : strips)
      strip = take(Strips(rows, first_vectors).floats(depth[0]), s.parts, part);
    second = take(two ? Strips(rows, second_vectors).floats(depth[1]) : 0, s.parts, part);
  }
};

// f(steps, work, part) for each part of the rows, with the arrays from its first row on.
template <class F>
void over_parts(const Steps& steps, bool backward, const F& f) {
  const Shape& s = steps.shape;
  auto run = [&](int index) {
    const Part part(s, index);
    Steps own = steps;
    const int64_t at = part.row * s.hidden;
    auto move = [](auto*& p, int64_t by) { p = p ? p + by : p; };
    move(own.lengths, part.row);
    move(own.gates, part.row * s.width), move(own.dgates, part.row * s.width);
    move(own.y, at * steps.time), move(own.dy, at * steps.time);
    move(own.c0, at), move(own.cells, at), move(own.h, at);
    move(own.h_before, at), move(own.reset, at), move(own.dh, at), move(own.dc, at);
    f(own, Work(s, steps.work, backward, index), part);
  };
  if (s.parts == 1) return region(s, [&] { run(0); });
#pragma omp parallel for schedule(static)
  for (int index = 0; index < s.parts; index++) run(index);
}

int64_t forward_floats(const Shape& s) { return Work(s, nullptr, false).floats; }
int64_t backward_floats(const Shape& s) { return Work(s, nullptr, true).floats; }

bool alive(const Steps& s, int64_t row, int64_t t) { return !s.lengths || t < s.lengths[row]; }

const float* cell_before(const Steps& s, int64_t t) {
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

// The matrix of columns [first, first + Vectors * hidden) of r, the units of each gate side by side
// in a panel.
template <int Vectors>
void pack_forward(const Shape& s, const float* r, int64_t first, float* panels) {
  const int64_t blocks = panel_count(s.hidden, 1), size = blocks * kLanes * Vectors * kLanes;
#pragma omp for schedule(static)
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t unit = block * kLanes, n = minimum_of(kLanes, s.hidden - unit);
    float* to = panels + block * size;
    for (int64_t k = 0; k < s.hidden; k++)
      for (int g = 0; g < Vectors; g++, to += kLanes) {
        copy(r + k * s.columns + first + g * s.hidden + unit, to, n);
        for (int64_t j = n; j < kLanes; j++) to[j] = 0;
      }
  }
}

// The transpose of columns [first, first + depth.segments * hidden) of r.
void pack_backward(const Shape& s, const float* r, int64_t first, Depth depth, int vectors,
                   float* panels) {
  const int64_t width = vectors * kLanes, blocks = panel_count(s.hidden, vectors);
  const int64_t in_segment = panel_count(s.hidden, 1);
#pragma omp for schedule(static)
  for (int64_t block = 0; block < blocks; block++) {
    for (int64_t part = 0; part < depth.blocks(); part++) {
      const int64_t segment = part / in_segment, begin = part % in_segment * kLanes;
      const int64_t n = minimum_of(kLanes, s.hidden - begin);
      float* to = panels + (block * depth.blocks() + part) * kLanes * width;
      for (int64_t j = 0; j < width; j++) {
        const int64_t unit = block * width + j;
        const float* from = r + unit * s.columns + first + segment * s.hidden + begin;
        for (int64_t k = 0; k < n; k++) to[k * width + j] = unit < s.hidden ? from[k] : 0;
      }
    }
  }
}

void begin_forward(const Steps& steps, const float* r) {
  const Shape& s = steps.shape;
  const Work work(s, steps.work, false);
  with_cell(s.cell, [&]<Cell cell> {
    constexpr int gates = first_gates(cell);
    region(s, [&] {
      pack_forward<gates>(s, r, 0, work.panels[0]);
      if (has_second(cell)) pack_forward<1>(s, r, gates * s.hidden, work.panels[1]);
    });
    over_parts(steps, false, [&](const Steps& own, const Work& work, const Part& part) {
      const Strips strips(part.rows, gates);
      float* now = work.strips[own.first & 1];
      for (int64_t row = 0; row < part.rows; row++)
        for (int64_t unit = 0; unit < s.hidden; unit += kLanes)
          copy(own.h + row * s.hidden + unit,
               now + strips.offset(row, work.depth[0]) + unit * strips.height,
               minimum_of(kLanes, s.hidden - unit));
    });
  });
}

// The new state of some units of a row, or where the row has ended the old one.
inline void give(const Steps& s, int64_t t, int64_t row, int64_t unit, int64_t n, const float* h,
                 float* strip, int height) {
  float* state = s.h + row * s.shape.hidden + unit;
  if (h) copy(h, state, n);
  copy(state, s.y + (row * s.time + t) * s.shape.hidden + unit, n);
  copy(state, strip + unit * height, n);
}

template <int N>
inline void blend(const Steps& s, int64_t n, const float* z, const float* v, const float* before,
                  float* h) {
  s.p == 1 ? blend_units<N, true>(n, z, v, before, h, s.p, s.flip)
           : blend_units<N, false>(n, z, v, before, h, s.p, s.flip);
}

// Asks for the vectors at unit `unit` of all `parts` of a row, early enough that the product before
// they are read hides the way from memory.
inline void fetch(const float* row, int64_t unit, int64_t hidden, int64_t parts) {
  for (int64_t i = 0; i < parts; i++) {
    __builtin_prefetch(row + i * hidden + unit);
    __builtin_prefetch(row + i * hidden + unit + kLanes - 1);
  }
}

void nothing(int64_t, int64_t, int64_t) {}

template <Cell cell>
void forward_step(const Steps& s, const Work& work, const Part& part, int64_t t) {
  constexpr int gates = first_gates(cell);
  const int64_t hidden = s.shape.hidden, width = s.shape.width;
  const int64_t blocks = panel_count(hidden, 1);
  float* const all_gates = s.gates + (t - s.low) * s.shape.batch * width;
  const float* const c_before = cell == Cell::lstm ? cell_before(s, t) : nullptr;
  float* const c_now = s.cells + (s.cells_kept ? t * s.shape.batch * hidden : 0);
  const Strips strips(part.rows, gates), seconds(part.rows, 1);
  const float* from = work.strips[t & 1];
  float* to = work.strips[(t + 1) & 1];
  auto fetch_gates = [&](int64_t first, int64_t rows, int64_t block) {
    for (int64_t row = first; row < first + rows; row++) {
      fetch(all_gates + row * width, block * kLanes, hidden, width / hidden);
      if (c_before) fetch(c_before + row * hidden, block * kLanes, hidden, 1);
    }
  };
  tiles<gates>(
      part.shared, strips, from, work.panels[0], work.depth[0], blocks, fetch_gates,
      [&](int64_t first, int64_t rows, int64_t block, float* all_sums) {
        const int64_t unit = block * kLanes;
        const float* extra = s.extra ? s.extra + unit : nullptr;
        with_units(minimum_of(kLanes, hidden - unit), [&]<int N>(int64_t n) {
          if constexpr (cell == Cell::rnn) {
            for (int64_t i = 0; i < rows; i++) {
              float *z = all_gates + (first + i) * width + unit, *sums = all_sums + i * kLanes;
              for (int64_t j = 0; j < n; j++) z[j] = sums[j] += z[j];
            }
            neuron_loops_table.apply(s.neuron, s.a, s.b, s.c, all_sums, all_sums, rows * kLanes);
          }
          for (int64_t i = 0; i < rows; i++) {
            const int64_t row = first + i, at = row * hidden + unit;
            float *z = all_gates + row * width + unit, *sums = all_sums + i * gates * kLanes;
            float* strip = to + strips.offset(row, work.depth[0]);
            float h[kLanes];
            bool is_alive = alive(s, row, t);
            if constexpr (cell == Cell::lstm) {
              if (!is_alive) {
                if (c_before != c_now) copy(c_before + at, c_now + at, n);
              } else if (extra) {
                lstm_units<N, true>(n, sums, kLanes, z, hidden, c_before + at, c_now + at, h,
                                    extra);
              } else {
                lstm_units<N, false>(n, sums, kLanes, z, hidden, c_before + at, c_now + at, h,
                                     extra);
              }
            } else if constexpr (cell == Cell::gru_after) {
              gru_after_units<N, false>(n, sums, kLanes, z, hidden, extra);
              blend<N>(s, n, z, z + 3 * hidden, s.h + at, h);
            } else if constexpr (cell == Cell::rnn) {
              copy(sums, h, n);
            } else {
              gru_gate_units<N, cell == Cell::gru>(n, sums, kLanes, z, hidden, s.h + at, h);
              strip = work.second + seconds.offset(row, work.depth[1]);
              copy(h, strip + unit * seconds.height, n);
              continue;
            }
            give(s, t, row, unit, n, is_alive ? h : nullptr, strip, strips.height);
          }
        });
      });
  if constexpr (has_second(cell)) {
    tiles<1>(part.shared, seconds, work.second, work.panels[1], work.depth[1], blocks, nothing,
             [&](int64_t first, int64_t rows, int64_t block, const float* sums) {
               const int64_t unit = block * kLanes;
               with_units(minimum_of(kLanes, hidden - unit), [&]<int N>(int64_t n) {
                 for (int64_t i = 0; i < rows; i++) {
                   const int64_t row = first + i;
                   float *z = all_gates + row * width + unit, *v = z + width - hidden;
                   float h[kLanes];
                   candidate_units<N>(n, sums + i * kLanes, v);
                   blend<N>(s, n, z, v, s.h + row * hidden + unit, h);
                   give(s, t, row, unit, n, alive(s, row, t) ? h : nullptr,
                        to + strips.offset(row, work.depth[0]), strips.height);
                 }
               });
             });
  }
}

void forward(const Steps& steps) {
  with_cell(steps.shape.cell, [&]<Cell cell> {
    over_parts(steps, false, [&](const Steps& own, const Work& work, const Part& part) {
      for (int64_t i = 0; i < own.count; i++)
        forward_step<cell>(own, work, part, own.first + (own.reverse ? -i : i));
    });
  });
}

void begin_backward(const Steps& steps, const float* r) {
  const Shape& s = steps.shape;
  const Work work(s, steps.work, true);
  const int vectors = backward_vectors(s);
  region(s, [&] {
    pack_backward(s, r, 0, work.depth[0], vectors, work.panels[0]);
    if (has_second(s.cell))
      pack_backward(s, r, first_gates(s.cell) * s.hidden, work.depth[1], vectors, work.panels[1]);
  });
}

// Some units of a row, back through the cell: g is all of dh.
template <Cell cell, int N>
inline void units_backward(const Steps& s, int64_t n, const float* gates, const float* c_before,
                           const float* c_now, int64_t at, int64_t h_at, int64_t unit, float* g,
                           float* dgates) {
  const int64_t hidden = s.shape.hidden, last = s.shape.width - hidden;
  if constexpr (cell == Cell::lstm) {
    if (s.extra) {
      lstm_units_backward<N, true>(n, gates, hidden, c_before + at, c_now + at, g, s.dc + at,
                                   dgates, s.extra + unit);
    } else {
      lstm_units_backward<N, false>(n, gates, hidden, c_before + at, c_now + at, g, s.dc + at,
                                    dgates, nullptr);
    }
    for (int64_t j = 0; j < n; j++) g[j] = 0;
  } else {
    constexpr bool after = cell == Cell::gru_after;
    const float* before = s.h_before + h_at;
    if (s.p == 1) {
      gru_units_backward<N, true, after>(n, gates, hidden, last, before, g, dgates, s.p, s.flip);
    } else {
      gru_units_backward<N, false, after>(n, gates, hidden, last, before, g, dgates, s.p, s.flip);
    }
  }
}

template <Cell cell, int Vectors>
void backward_step(const Steps& s, const Work& work, const Part& part, int64_t t, bool is_first) {
  constexpr int gates = first_gates(cell);
  const int64_t hidden = s.shape.hidden, width = s.shape.width, last = width - hidden;
  const int64_t panels = panel_count(hidden, Vectors), rows_before = (t - s.low) * s.shape.batch;
  const Strips strips(part.rows, Vectors);
  const float* const c_before = cell == Cell::lstm ? cell_before(s, t) : nullptr;
  const float* const c_now = s.cells + t * s.shape.batch * hidden;
  const float* from = work.strips[t & 1];
  float* to = work.strips[(t + 1) & 1];
  // f(unit, n, v) for the vectors of units in a panel.
  auto over_units = [&](int64_t panel, const auto& f) {
    for (int v = 0; v < Vectors; v++) {
      const int64_t unit = (panel * Vectors + v) * kLanes;
      if (unit < hidden)
        with_units(minimum_of(kLanes, hidden - unit),
                   [&]<int N>(int64_t n) { f.template operator()<N>(unit, n, v); });
    }
  };
  auto fetch_gates = [&](int64_t first, int64_t rows, int64_t panel) {
    for (int64_t row = first; row < first + rows; row++)
      for (int64_t unit = panel * Vectors * kLanes, v = 0; v < Vectors && unit < hidden;
           v++, unit += kLanes) {
        fetch(s.gates + (rows_before + row) * width, unit, hidden, width / hidden);
        fetch(s.dy + (row * s.time + t) * hidden, unit, hidden, 1);
        if (cell == Cell::lstm) {
          fetch(c_before + row * hidden, unit, hidden, 1);
        } else {
          fetch(s.h_before + (rows_before + row) * hidden, unit, hidden, 1);
        }
      }
  };
  // Gradients of the gates that the first product takes go into its next operand.
  auto give_gates = [&](int64_t row, int64_t unit, int64_t n, const float* dgates) {
    float* strip = to + strips.offset(row, work.depth[0]);
    const int64_t padded = panel_count(hidden, 1) * kLanes;
    for (int g = 0; g < gates; g++)
      copy(dgates + g * hidden, strip + (g * padded + unit) * strips.height, n);
  };
  tiles<Vectors>(
      part.shared, strips, from, work.panels[0], is_first ? Depth{0, hidden} : work.depth[0],
      panels, fetch_gates, [&](int64_t first, int64_t rows, int64_t panel, float* all_sums) {
        over_units(panel, [&]<int N>(int64_t unit, int64_t n, int v) {
          constexpr int kept = cell == Cell::rnn ? strip_height(Vectors) : 1;
          alignas(64) float given[kept * kLanes] = {}, sums[kept * kLanes] = {};
          if constexpr (cell == Cell::rnn) {
            for (int64_t i = 0; i < rows; i++)
              copy(s.gates + (rows_before + first + i) * width + unit, sums + i * kLanes, n);
          }
          for (int64_t i = 0; i < rows; i++) {
            const int64_t row = first + i, at = row * hidden + unit;
            const float* dy = s.dy + (row * s.time + t) * hidden + unit;
            const float* sum = all_sums + (i * Vectors + v) * kLanes;
            float *dh = s.dh + at, *g = given + i % kept * kLanes;
            for (int64_t j = 0; j < n; j++) g[j] = sum[j] + dh[j] + dy[j];
            if constexpr (cell == Cell::rnn) {
              copy(g, dh, n);
              continue;
            }
            const float* all = s.gates + (rows_before + row) * width + unit;
            float* dgates = s.dgates + (rows_before + row) * width + unit;
            if (alive(s, row, t)) {
              units_backward<cell, N>(s, n, all, c_before, c_now, at, rows_before * hidden + at,
                                      unit, g, dgates);
            } else {
              for (int64_t gate = 0; gate < width; gate += hidden)
                for (int64_t j = 0; j < n; j++) dgates[gate + j] = 0;
            }
            copy(g, dh, n);
            if constexpr (has_second(cell)) {
              float* strip = work.second + strips.offset(row, work.depth[1]);
              copy(dgates + last, strip + unit * strips.height, n);
            } else {
              give_gates(row, unit, n, dgates);
            }
          }
          if constexpr (cell == Cell::rnn) {
            neuron_loops_table.gradient(s.neuron, s.a, s.b, s.c, given, sums, sums, rows * kLanes);
            for (int64_t i = 0; i < rows; i++) {
              const int64_t row = first + i;
              float* dgates = s.dgates + (rows_before + row) * width + unit;
              const bool is_alive = alive(s, row, t);
              for (int64_t j = 0; j < n; j++) {
                dgates[j] = is_alive ? sums[i * kLanes + j] : 0;
                if (is_alive) s.dh[row * hidden + unit + j] = 0;
              }
              give_gates(row, unit, n, dgates);
            }
          }
        });
      });
  if constexpr (has_second(cell)) {
    tiles<Vectors>(part.shared, strips, work.second, work.panels[1], work.depth[1], panels, nothing,
                   [&](int64_t first, int64_t rows, int64_t panel, const float* all_sums) {
                     over_units(panel, [&]<int N>(int64_t unit, int64_t n, int v) {
                       for (int64_t i = 0; i < rows; i++) {
                         const int64_t row = first + i, at = row * hidden + unit;
                         float* dgates = s.dgates + (rows_before + row) * width + unit;
                         float* reset = s.reset + rows_before * hidden + at;
                         if (alive(s, row, t)) {
                           gru_gate_units_backward<N, cell == Cell::gru>(
                               n, s.gates + (rows_before + row) * width + unit, hidden,
                               all_sums + (i * Vectors + v) * kLanes,
                               s.h_before + rows_before * hidden + at, s.dh + at, dgates, reset);
                         } else {
                           for (int64_t j = 0; j < n; j++) reset[j] = 0;
                         }
                         give_gates(row, unit, n, dgates);
                       }
                     });
                   });
  }
}

template <class F>
void with_vectors(int vectors, const F& f) {
  if (vectors == 4) return f.template operator()<4>();
  if (vectors == 2) return f.template operator()<2>();
  f.template operator()<1>();
}

void backward(const Steps& steps, bool is_first) {
  with_cell(steps.shape.cell, [&]<Cell cell> {
    with_vectors(backward_vectors(steps.shape), [&]<int Vectors> {
      over_parts(steps, true, [&](const Steps& own, const Work& work, const Part& part) {
        for (int64_t i = 0; i < own.count; i++)
          backward_step<cell, Vectors>(own, work, part, own.first + (own.reverse ? i : -i),
                                       is_first && i == 0);
      });
    });
  });
}

void end_backward(const Steps& steps) {
  const int64_t hidden = steps.shape.hidden;
  const int64_t last = steps.reverse ? steps.time - 1 : 0;  // where the forward pass begins
  with_vectors(backward_vectors(steps.shape), [&]<int Vectors> {
    over_parts(steps, true, [&](const Steps& own, const Work& work, const Part& part) {
      tiles<Vectors>(part.shared, Strips(part.rows, Vectors), work.strips[(last + 1) & 1],
                     work.panels[0], work.depth[0], panel_count(hidden, Vectors), nothing,
                     [&](int64_t first, int64_t rows, int64_t panel, const float* sums) {
                       const int64_t unit = panel * Vectors * kLanes;
                       const int64_t n = minimum_of(Vectors * kLanes, hidden - unit);
                       for (int64_t i = 0; i < rows; i++)
                         for (int64_t j = 0; j < n; j++)
                           own.dh[(first + i) * hidden + unit + j] +=
                               sums[i * Vectors * kLanes + j];
                     });
    });
  });
}

}  // namespace

extern const RecurrentStepsLoops recurrent_steps_table = {
    forward_floats, backward_floats, begin_forward, forward,
    begin_backward, backward,        end_backward};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
