// The backward steps of the recurrent cells.
#include "recurrent_parts.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

int64_t floats(const Shape& s) { return Work(s, nullptr, true).floats; }

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

void begin(const Steps& steps, const float* r) {
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
  auto dgates_at = [&](int64_t row, int64_t unit) {
    return s.dgates + (rows_before + row) * s.shape.dgates_stride + unit;
  };
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
            float* dgates = dgates_at(row, unit);
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
            const NeuronCall& f = s.neurons[0];
            neuron_loops_table.gradient(f.kind, f.a, f.b, f.c, given, sums, sums, rows * kLanes);
            for (int64_t i = 0; i < rows; i++) {
              const int64_t row = first + i;
              float* dgates = dgates_at(row, unit);
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
                         float* dgates = dgates_at(row, unit);
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

void run(const Steps& steps, bool is_first) {
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

void end(const Steps& steps) {
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

extern const RecurrentBackwardLoops recurrent_backward_table = {floats, begin, run, end};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
