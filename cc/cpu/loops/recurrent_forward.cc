// The forward steps of the recurrent cells.
#include "recurrent_parts.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

int64_t floats(const Shape& s) { return Work(s, nullptr, false).floats; }

// The matrix of columns [first, first + Vectors * hidden) of r, below w and b if the steps take the
// inputs, the gates of some units side by side in a panel.
template <int Vectors>
void pack_forward(const Steps& steps, const float* r, int64_t first, Depth depth, float* panels) {
  const Shape& s = steps.shape;
  const int64_t blocks = panel_count(s.hidden, 1), all_rows = depth.lead + s.hidden;
  const int64_t size = depth.blocks() * kLanes * Vectors * kLanes;
  auto source = [&](int64_t k) {
    if (k >= depth.lead) return r + (k - depth.lead) * s.columns;
    return k < s.inputs ? steps.w + k * s.columns : steps.b;
  };
  constexpr int64_t kPiece = 8;  // rows
  parallel((all_rows + kPiece - 1) / kPiece, shared_steps(s) ? kSmall : 0, [&](int64_t piece) {
    for (int64_t k = piece * kPiece; k < minimum_of(all_rows, (piece + 1) * kPiece); k++) {
      const int64_t place = k < depth.lead ? k : k - depth.lead + depth.begin();
      for (int g = 0; g < Vectors; g++) {
        const float* row = source(k) + first + g * s.hidden;
        for (int64_t block = 0; block < blocks; block++) {
          const int64_t unit = block * kLanes;
          float* to = panels + block * size + (place * Vectors + g) * kLanes;
          with_units(minimum_of(kLanes, s.hidden - unit), [&]<int N>(int64_t n) {
            copy(row + unit, to, N ? N : n);
            for (int64_t j = n; j < kLanes; j++) to[j] = 0;
          });
        }
      }
    }
  });
}

// Numbers of a row into its strip.
inline void copy_row(const float* from, float* strip, int64_t n, int height) {
  for (int64_t i = 0; i < n; i += kLanes)
    copy(from + i, strip + i * height, minimum_of(kLanes, n - i));
}

// The inputs of a step, and a one for the bias, into the strips that hold the state before it.
void take_inputs(const Steps& s, const Work& work, const Part& part, const Strips& strips,
                 int64_t t) {
  const int64_t inputs = s.shape.inputs;
  if (!inputs || t < 0 || t >= s.time) return;
  for (int64_t row = 0; row < part.rows; row++) {
    float* strip = work.strips[t & 1] + strips.offset(row, work.depth[0]);
    copy_row(s.x + (row * s.time + t) * inputs, strip, inputs, strips.height);
    strip[inputs / kLanes * kLanes * strips.height + inputs % kLanes] = 1;
  }
}

void begin(const Steps& steps, const float* r) {
  const Shape& s = steps.shape;
  const Work work(s, steps.work, false);
  with_cell(s.cell, [&]<Cell cell> {
    constexpr int gates = first_gates(cell);
    pack_forward<gates>(steps, r, 0, work.depth[0], work.panels[0]);
    if (has_second(cell))
      pack_forward<1>(steps, r, gates * s.hidden, work.depth[1], work.panels[1]);
    over_parts(steps, false, [&](const Steps& own, const Work& work, const Part& part) {
      const Strips strips(part.rows, forward_vectors(s));
      for (int64_t row = 0; row < part.rows; row++)
        copy_row(own.h + row * s.hidden,
                 work.strips[own.first & 1] + strips.offset(row, work.depth[0]) +
                     work.depth[0].begin() * strips.height,
                 s.hidden, strips.height);
      take_inputs(own, work, part, strips, own.first);
    });
  });
}

// The new state of some units of a row, or where the row has ended the old one.
inline void give(const Steps& s, int64_t t, int64_t row, int64_t unit, int64_t n, const float* h,
                 float* strip, int height) {
  float* state = s.h + row * s.shape.hidden + unit;
  const float* now = h ? h : state;
  copy(now, state, n);
  copy(now, s.y + (row * s.time + t) * s.shape.hidden + unit, n);
  copy(now, strip + unit * height, n);
}

template <int N>
inline void blend(const Steps& s, int64_t n, const float* z, const float* v, const float* before,
                  float* h) {
  s.p == 1 ? blend_units<N, true>(n, z, v, before, h, s.p, s.flip)
           : blend_units<N, false>(n, z, v, before, h, s.p, s.flip);
}

// The gates, cells and states h [rows][lanes] of some units of the rows of a strip, from sums
// [rows][4][lanes].
template <int N, int Height>
inline void lstm_tile(const Steps& s, int64_t t, int64_t first, int64_t rows, int64_t unit,
                      int64_t units, float* sums, float* h) {
  const int64_t n = N ? N : units, hidden = s.shape.hidden, width = s.shape.width;
  float* gates = s.gates + ((t - s.low) * s.shape.batch + first) * width + unit;
  const float* before = cell_before(s, t) + first * hidden + unit;
  float* now = s.cells + ((s.cells_kept ? t * s.shape.batch : 0) + first) * hidden + unit;
  alignas(64) float c[Height * kLanes];
  clear<N>(c, rows);
  for (int64_t i = 0; i < rows; i++) {
    copy(before + i * hidden, c + i * kLanes, n);
    for (int g = 0; g < 4 && !s.shape.inputs; g++)
      for (int64_t j = 0; j < n; j++)
        sums[(i * 4 + g) * kLanes + j] += gates[i * width + g * hidden + j];
  }
  if (s.extra) {
    alignas(64) float peepholes[3 * kLanes] = {};
    for (int g = 0; g < 3; g++) copy(s.extra + g * hidden + unit, peepholes + g * kLanes, n);
    lstm_units<true>(rows, sums, c, h, peepholes);
  } else {
    lstm_units<false>(rows, sums, c, h, nullptr);
  }
  for (int64_t i = 0; i < rows; i++) {
    const bool is_alive = alive(s, first + i, t);
    for (int g = 0; g < 4; g++)
      copy(is_alive ? sums + (i * 4 + g) * kLanes : kZeros, gates + i * width + g * hidden, n);
    copy(is_alive ? c + i * kLanes : before + i * hidden, now + i * hidden, n);
  }
}

template <Cell cell, int Vectors>
void forward_step(const Steps& s, const Work& work, const Part& part, int64_t t) {
  constexpr int gates = first_gates(cell);
  const int64_t hidden = s.shape.hidden, width = s.shape.width;
  const int64_t blocks = panel_count(hidden, 1);
  float* const all_gates = s.gates + (t - s.low) * s.shape.batch * width;
  const float* const c_before = cell == Cell::lstm ? cell_before(s, t) : nullptr;
  const Strips strips(part.rows, Vectors), seconds(part.rows, 1);
  const float* from = work.strips[t & 1];
  float* to = work.strips[(t + 1) & 1];
  const int64_t lead = work.depth[0].begin() * strips.height;
  take_inputs(s, work, part, strips, t + (s.reverse ? -1 : 1));
  auto touches = [&](int64_t first, int64_t rows, int64_t block, Ahead& ahead) {
    const int64_t unit = block * kLanes;
    for (int64_t row = first; row < first + rows; row++) {
      if (c_before) touch(ahead, c_before + row * hidden, unit, hidden, 1);
      if (cell == Cell::lstm && s.cells_kept)
        touch(ahead, s.cells + (t * s.shape.batch + row) * hidden, unit, hidden, 1);
      touch(ahead, all_gates + row * width, unit, hidden, width / hidden);
      touch(ahead, s.y + (row * s.time + t) * hidden, unit, hidden, 1);
    }
  };
  tiles<Vectors, gates>(
      part.shared, strips, from, work.panels[0], work.depth[0], blocks, touches,
      [&](int64_t first, int64_t rows, int64_t block, float* all_sums) {
        const int64_t unit = block * kLanes;
        const float* extra = s.extra ? s.extra + unit : nullptr;
        with_units(minimum_of(kLanes, hidden - unit), [&]<int N>(int64_t n) {
          if constexpr (cell == Cell::rnn) {
            for (int64_t i = 0; i < rows; i++) {
              float *z = all_gates + (first + i) * width + unit, *sums = all_sums + i * kLanes;
              for (int64_t j = 0; j < n; j++) z[j] = sums[j] += z[j];
            }
            const NeuronCall& f = s.neurons[0];
            neuron_loops_table.apply(f.kind, f.a, f.b, f.c, all_sums, all_sums, rows * kLanes);
          }
          alignas(64) float states[strip_height(Vectors) * kLanes];
          if constexpr (cell == Cell::lstm)
            lstm_tile<N, strip_height(Vectors)>(s, t, first, rows, unit, n, all_sums, states);
          float* strip = to + strips.offset(first, work.depth[0]) + lead;
          for (int64_t i = 0; i < rows; i++) {
            const int64_t row = first + i, at = row * hidden + unit;
            float *z = all_gates + row * width + unit, *sums = all_sums + i * gates * kLanes;
            float* h = states + i * kLanes;
            if constexpr (cell == Cell::gru_after) {
              gru_after_units<N, false>(n, sums, kLanes, z, hidden, extra);
              blend<N>(s, n, z, z + 3 * hidden, s.h + at, h);
            } else if constexpr (cell == Cell::rnn) {
              h = sums;
            } else if constexpr (has_second(cell)) {
              gru_gate_units<N, cell == Cell::gru>(n, sums, kLanes, z, hidden, s.h + at, h);
              copy(h, work.second + seconds.offset(row, work.depth[1]) + unit * seconds.height, n);
              continue;
            }
            give(s, t, row, unit, n, alive(s, row, t) ? h : nullptr, strip + i * kLanes,
                 strips.height);
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
                        to + strips.offset(row, work.depth[0]) + lead, strips.height);
                 }
               });
             });
  }
}

void run(const Steps& steps) {
  with_cell(steps.shape.cell, [&]<Cell cell> {
    constexpr int gates = first_gates(cell), tall = tall_vectors(cell);
    auto* const step =
        forward_vectors(steps.shape) == tall ? forward_step<cell, tall> : forward_step<cell, gates>;
    over_parts(steps, false, [&](const Steps& own, const Work& work, const Part& part) {
      for (int64_t i = 0; i < own.count; i++)
        step(own, work, part, own.first + (own.reverse ? -i : i));
    });
  });
}

}  // namespace

extern const RecurrentForwardLoops recurrent_forward_table = {floats, begin, run};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
