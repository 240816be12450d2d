#include "recurrent.h"

#include "lanes.h"
#include "parallel.h"
#include "recurrent_cells.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

void copy_row(const float* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

void gather(const float* x, float* steps, int64_t batch, int64_t time, int64_t size, int64_t first,
            int64_t count) {
  parallel_pieces(count, 1, count * batch * size, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t b = 0; b < batch; b++)
        copy_row(x + (b * time + first + t) * size, steps + (t * batch + b) * size, size);
  });
}

void scatter(const float* steps, float* x, int64_t batch, int64_t time, int64_t size, int64_t first,
             int64_t count) {
  parallel_pieces(count, 1, count * batch * size, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t b = 0; b < batch; b++)
        copy_row(steps + (t * batch + b) * size, x + (b * time + first + t) * size, size);
  });
}

void column_sums(const float* x, int64_t stride, float* sum, int64_t rows, int64_t width,
                 bool add) {
  constexpr int64_t kColumns = 128;
  parallel_pieces(width, kColumns, rows * width, [&](int64_t begin, int64_t end) {
    float total[kColumns];
    int64_t n = end - begin;
    for (int64_t j = 0; j < n; j++) total[j] = 0;
    for (int64_t row = 0; row < rows; row++) {
      const float* from = x + row * stride + begin;
#pragma omp simd
      for (int64_t j = 0; j < n; j++) total[j] += from[j];
    }
    for (int64_t j = 0; j < n; j++) sum[begin + j] = (add ? sum[begin + j] : 0) + total[j];
  });
}

void fill(const float* vector, float* to, int64_t rows, int64_t hidden, int64_t stride) {
  parallel_pieces(rows, (rows + 7) / 8, rows * hidden, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) copy_row(vector, to + row * stride, hidden);
  });
}

// f.template operator()<N>(row, unit, n) for the vectors of units of all rows; N = n for whole
// ones. The gates are sums that have the products of the state before already.
template <class F>
void over_units(const RecurrentGates& s, const F& f) {
  constexpr int64_t kNeurons = 4;  // a neuron costs more than the elements that kSmall counts
  parallel_pieces(s.rows, (s.rows + 7) / 8, s.rows * s.hidden * kNeurons,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t row = begin; row < end; row++) {
                      int64_t unit = 0;
                      for (; unit + kMaxLanes <= s.hidden; unit += kMaxLanes)
                        f.template operator()<kMaxLanes>(row, unit, kMaxLanes);
                      if (unit < s.hidden) f.template operator()<0>(row, unit, s.hidden - unit);
                    }
                  });
}

void lstm(const RecurrentGates& s) {
  over_units(s, [&]<int N>(int64_t row, int64_t unit, int64_t units) {
    constexpr int lanes = kMaxLanes;
    const int64_t n = N ? N : units;
    float* gates = s.gates + row * s.width + unit;
    float sums[4 * lanes] = {}, c[lanes] = {}, h[lanes], peepholes[3 * lanes] = {};
    for (int g = 0; g < 4; g++) copy_row(gates + g * s.hidden, sums + g * lanes, n);
    copy_row(s.c_before + row * s.hidden + unit, c, n);
    for (int g = 0; g < 3 && s.extra; g++)
      copy_row(s.extra + g * s.hidden + unit, peepholes + g * lanes, n);
    s.extra ? lstm_units<true>(1, sums, c, h, peepholes)
            : lstm_units<false>(1, sums, c, h, nullptr);
    for (int g = 0; g < 4; g++) copy_row(sums + g * lanes, gates + g * s.hidden, n);
  });
}

template <bool two>
void gru_gates_of(const RecurrentGates& s) {
  over_units(s, [&]<int N>(int64_t row, int64_t unit, int64_t n) {
    const int64_t at = row * s.hidden + unit;
    gru_gate_units<N, two>(n, kZeros, 0, s.gates + row * s.width + unit, s.hidden, s.h_before + at,
                           s.reset + at);
  });
}
void gru_gates(const RecurrentGates& s) {
  s.width == 3 * s.hidden ? gru_gates_of<true>(s) : gru_gates_of<false>(s);  // else z itself resets
}

void candidate(const RecurrentGates& s) {
  over_units(s, [&]<int N>(int64_t row, int64_t unit, int64_t n) {
    candidate_units<N>(n, kZeros, s.gates + (row + 1) * s.width - s.hidden + unit);
  });
}

void gru_after(const RecurrentGates& s) {
  over_units(s, [&]<int N>(int64_t row, int64_t unit, int64_t n) {
    gru_after_units<N, true>(n, kZeros, 0, s.gates + row * s.width + unit, s.hidden, kZeros);
  });
}

void peephole_gradient(const RecurrentGates& s, const float* dgates, int64_t stride,
                       float* gradient) {
  const int64_t n = s.hidden;
  parallel_pieces(n, 128, s.rows * n, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < s.rows; row++) {
      const float* d = dgates + row * stride;
      const float *before = s.c_before + row * n, *c = s.c + row * n;
#pragma omp simd
      for (int64_t j = begin; j < end; j++) {
        gradient[j] += d[j] * before[j];
        gradient[n + j] += d[n + j] * before[j];
        gradient[2 * n + j] += d[3 * n + j] * c[j];
      }
    }
  });
}

}  // namespace

extern const RecurrentLoops recurrent_loops_table = {
    gather, scatter, column_sums, fill, lstm, gru_gates, candidate, gru_after, peephole_gradient};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
