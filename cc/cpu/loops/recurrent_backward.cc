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
  parallel(blocks, shared_steps(s) ? kSmall : 0, [&](int64_t block) {
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
  });
}

void begin(const Steps& steps, const float* r) {
  const Shape& s = steps.shape;
  const Work work(s, steps.work, true);
  const int vectors = backward_vectors(s);
  pack_backward(s, r, 0, work.depth[0], vectors, work.panels[0]);
  if (has_second(s.cell))
    pack_backward(s, r, first_gates(s.cell) * s.hidden, work.depth[1], vectors, work.panels[1]);
}

// Some units of the rows of a strip, back through the LSTM's cell. dh [rows][lanes], in: all of the
// states' gradients, out: what goes past the products. dgates also go to `strip` [rows][lanes],
// whose gates are `next` apart.
template <int N, int Height>
inline void lstm_tile(const Steps& s, int64_t t, int64_t first, int64_t rows, int64_t unit,
                      int64_t units, float* dh, float* dgates, float* strip, int64_t next) {
  const int64_t n = N ? N : units, hidden = s.shape.hidden, width = s.shape.width;
  const int64_t at = first * hidden + unit;
  const float* gates = s.gates + ((t - s.low) * s.shape.batch + first) * width + unit;
  const float* before = cell_before(s, t) + at;
  alignas(64) float tanhs[Height * kLanes];
  tanh_units<N>(rows, n, s.cells + t * s.shape.batch * hidden + at, hidden, tanhs);
  auto units_backward = s.extra ? lstm_units_backward<N, true> : lstm_units_backward<N, false>;
  for (int64_t i = 0; i < rows; i++) {
    float *g = dh + i * kLanes, *out = dgates + i * s.shape.dgates_stride,
          *into = strip + i * kLanes;
    if (!alive(s, first + i, t)) {
      for (int64_t gate = 0; gate < 4; gate++) {
        copy(kZeros, out + gate * hidden, n);
        copy(kZeros, into + gate * next, n);
      }
      continue;
    }
    units_backward(n, gates + i * width, hidden, before + i * hidden, tanhs + i * kLanes, g,
                   s.dc + at + i * hidden, out, into, next, s.extra ? s.extra + unit : nullptr);
    copy(kZeros, g, n);
  }
}

// Some units of a row, back through a GRU's cell or an MGU's: g is all of dh.
template <Cell cell, int N>
inline void gru_backward(const Steps& s, int64_t n, const float* gates, const float* before,
                         float* g, float* dgates) {
  const int64_t hidden = s.shape.hidden, last = s.shape.width - hidden;
  constexpr bool after = cell == Cell::gru_after;
  if (s.p == 1) {
    gru_units_backward<N, true, after>(n, gates, hidden, last, before, g, dgates, s.p, s.flip);
  } else {
    gru_units_backward<N, false, after>(n, gates, hidden, last, before, g, dgates, s.p, s.flip);
  }
}

template <Cell cell, int Vectors>
void backward_step(const Steps& s, const Work& work, const Part& part, int64_t t, bool is_first) {
  constexpr int gates = first_gates(cell);
  const int64_t hidden = s.shape.hidden, width = s.shape.width, last = width - hidden;
  const int64_t panels = panel_count(hidden, Vectors), rows_before = (t - s.low) * s.shape.batch;
  const Strips strips(part.rows, Vectors);
  const float* const c_before = cell == Cell::lstm ? cell_before(s, t) : nullptr;
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
  auto touches = [&](int64_t first, int64_t rows, int64_t panel, Ahead& ahead) {
    for (int64_t row = first; row < first + rows; row++)
      for (int64_t unit = panel * Vectors * kLanes, v = 0; v < Vectors && unit < hidden;
           v++, unit += kLanes) {
        touch(ahead, s.gates + (rows_before + row) * width, unit, hidden, width / hidden);
        touch(ahead, dgates_at(row, 0), unit, hidden, width / hidden);
        touch(ahead, s.dy + (row * s.time + t) * hidden, unit, hidden, 1);
        if (cell == Cell::lstm) {
          touch(ahead, c_before + row * hidden, unit, hidden, 1);
          touch(ahead, s.cells + (t * s.shape.batch + row) * hidden, unit, hidden, 1);
        } else {
          touch(ahead, s.h_before + (rows_before + row) * hidden, unit, hidden, 1);
        }
      }
  };
  // Gradients of the gates that the first product takes go into its next operand.
  const int64_t padded = panel_count(hidden, 1) * kLanes, next = padded * strips.height;
  auto strip_of = [&](int64_t row, int64_t unit) {
    return to + strips.offset(row, work.depth[0]) + unit * strips.height;
  };
  auto give_gates = [&](float* strip, int64_t n, const float* dgates) {
    for (int g = 0; g < gates; g++) copy(dgates + g * hidden, strip + g * next, n);
  };
  tiles<Vectors>(
      part.shared, strips, from, work.panels[0], is_first ? Depth{0, hidden} : work.depth[0],
      panels, touches, [&](int64_t first, int64_t rows, int64_t panel, float* all_sums) {
        over_units(panel, [&]<int N>(int64_t unit, int64_t n, int v) {
          constexpr int height = strip_height(Vectors);
          alignas(64) float all_dh[height * kLanes];
          clear<N>(all_dh, rows);
          for (int64_t i = 0; i < rows; i++) {
            const float* sum = all_sums + (i * Vectors + v) * kLanes;
            const float* dh = s.dh + (first + i) * hidden + unit;
            const float* dy = s.dy + ((first + i) * s.time + t) * hidden + unit;
            for (int64_t j = 0; j < n; j++) all_dh[i * kLanes + j] = sum[j] + dh[j] + dy[j];
          }
          float* strip = strip_of(first, unit);
          if constexpr (cell == Cell::lstm) {
            lstm_tile<N, height>(s, t, first, rows, unit, n, all_dh, dgates_at(first, unit), strip,
                                 next);
          } else if constexpr (cell == Cell::rnn) {
            alignas(64) float values[height * kLanes] = {};
            for (int64_t i = 0; i < rows; i++)
              copy(s.gates + (rows_before + first + i) * width + unit, values + i * kLanes, n);
            const NeuronCall& f = s.neurons[0];
            neuron_loops_table.gradient(f.kind, f.a, f.b, f.c, all_dh, values, values,
                                        rows * kLanes);
            for (int64_t i = 0; i < rows; i++) {
              const bool is_alive = alive(s, first + i, t);
              float* dgates = dgates_at(first + i, unit);
              copy(is_alive ? values + i * kLanes : kZeros, dgates, n);
              if (is_alive) copy(kZeros, all_dh + i * kLanes, n);
              give_gates(strip + i * kLanes, n, dgates);
            }
          } else {
            for (int64_t i = 0; i < rows; i++) {
              const int64_t row = rows_before + first + i;
              float* dgates = dgates_at(first + i, unit);
              if (alive(s, first + i, t)) {
                gru_backward<cell, N>(s, n, s.gates + row * width + unit,
                                      s.h_before + row * hidden + unit, all_dh + i * kLanes,
                                      dgates);
              } else {
                for (int64_t gate = 0; gate < width; gate += hidden) copy(kZeros, dgates + gate, n);
              }
              if constexpr (has_second(cell)) {
                float* second = work.second + strips.offset(first, work.depth[1]) + i * kLanes;
                copy(dgates + last, second + unit * strips.height, n);
              } else {
                give_gates(strip + i * kLanes, n, dgates);
              }
            }
          }
          for (int64_t i = 0; i < rows; i++)
            copy(all_dh + i * kLanes, s.dh + (first + i) * hidden + unit, n);
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
                         give_gates(strip_of(first, unit) + i * kLanes, n, dgates);
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
