#include "recurrent.h"

#include "math.h"
#include "parallel.h"
#include "pieces.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

// f(row, alive) for the rows of a step.
template <class F>
void over_rows(const RecurrentStep& s, const F& f) {
  constexpr int64_t kNeurons = 4;  // a neuron costs more than the elements that kSmall counts
  parallel_pieces(s.rows, (s.rows + 7) / 8, s.rows * s.hidden * kNeurons,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t row = begin; row < end; row++)
                      f(row, !s.lengths || s.t < s.lengths[row]);
                  });
}

void copy_row(const float* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

void zero_row(float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = 0;
}

// The new state goes to y too; rows that have ended keep theirs.
void give(const RecurrentStep& s, int64_t row) {
  if (s.y) copy_row(s.h + row * s.hidden, s.y + row * s.y_stride, s.hidden);
}

// dh of a row: from y and from the step after.
void add_dy(const RecurrentStep& s, int64_t row) {
  float* dh = s.dh + row * s.hidden;
  const float* dy = s.dy + row * s.y_stride;
#pragma omp simd
  for (int64_t j = 0; j < s.hidden; j++) dh[j] += dy[j];
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

void column_sums(const float* x, float* sum, int64_t rows, int64_t width, bool add) {
  constexpr int64_t kColumns = 128;
  parallel_pieces(width, kColumns, rows * width, [&](int64_t begin, int64_t end) {
    float total[kColumns];
    int64_t n = end - begin;
    for (int64_t j = 0; j < n; j++) total[j] = 0;
    for (int64_t row = 0; row < rows; row++) {
      const float* from = x + row * width + begin;
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

template <bool peephole, bool state>
void lstm_row(const RecurrentStep& s, int64_t row) {
  const int64_t n = s.hidden;
  float *i = s.gates + row * s.width, *f = i + n, *g = f + n, *o = g + n;
  const float* before = s.c_before + row * n;
  float *c = state ? s.c + row * n : nullptr, *h = state ? s.h + row * n : nullptr;
  const float* pi = peephole ? s.extra : s.gates;
  const float *pf = pi + n, *po = pf + n;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float c0 = before[j];
    float si = sigmoid(peephole ? i[j] + pi[j] * c0 : i[j]);
    float sf = sigmoid(peephole ? f[j] + pf[j] * c0 : f[j]);
    float tg = tanh(g[j]);
    float c1 = sf * c0 + si * tg;
    float so = sigmoid(peephole ? o[j] + po[j] * c1 : o[j]);
    i[j] = si, f[j] = sf, g[j] = tg, o[j] = so;
    if constexpr (state) c[j] = c1, h[j] = so * tanh(c1);
  }
}

void lstm(const RecurrentStep& s) {
  over_rows(s, [&](int64_t row, bool alive) {
    if (!s.h) return s.extra ? lstm_row<true, false>(s, row) : lstm_row<false, false>(s, row);
    if (alive) {
      s.extra ? lstm_row<true, true>(s, row) : lstm_row<false, true>(s, row);
    } else {
      copy_row(s.c_before + row * s.hidden, s.c + row * s.hidden, s.hidden);
    }
    give(s, row);
  });
}

template <bool peephole>
void lstm_row_backward(const RecurrentStep& s, int64_t row) {
  const int64_t n = s.hidden;
  const float *i = s.gates + row * s.width, *f = i + n, *g = f + n, *o = g + n;
  float *di = s.dgates + row * s.width, *df = di + n, *dg = df + n, *d_o = dg + n;
  const float *before = s.c_before + row * n, *c = s.c + row * n;
  float *dh = s.dh + row * n, *dc = s.dc + row * n;
  const float* pi = peephole ? s.extra : s.gates;
  const float *pf = pi + n, *po = pf + n;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float vi = i[j], vf = f[j], vg = g[j], vo = o[j], t = tanh(c[j]);
    float dso = dh[j] * t * vo * (1 - vo);
    float dcell = dc[j] + dh[j] * vo * (1 - t * t);
    if constexpr (peephole) dcell += dso * po[j];
    float dsi = dcell * vg * vi * (1 - vi);
    float dsf = dcell * before[j] * vf * (1 - vf);
    float through = dcell * vf;
    if constexpr (peephole) through += dsi * pi[j] + dsf * pf[j];
    di[j] = dsi, df[j] = dsf, d_o[j] = dso;
    dg[j] = dcell * vi * (1 - vg * vg);
    dc[j] = through;
    dh[j] = 0;
  }
}

void lstm_backward(const RecurrentStep& s) {
  over_rows(s, [&](int64_t row, bool alive) {
    add_dy(s, row);
    if (!alive) return zero_row(s.dgates + row * s.width, s.width);
    s.extra ? lstm_row_backward<true>(s, row) : lstm_row_backward<false>(s, row);
  });
}

void peephole_gradient(const RecurrentStep& s, float* gradient) {
  const int64_t n = s.hidden;
  parallel_pieces(n, 128, s.rows * n, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < s.rows; row++) {
      const float* d = s.dgates + row * s.width;
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

void gru_gates(const RecurrentStep& s) {
  const int64_t n = s.hidden, gates = s.width - n;
  over_rows(s, [&](int64_t row, bool) {
    float *z = s.gates + row * s.width, *r = z + gates - n, *reset = s.reset + row * n;
    const float* h = s.h_before + row * n;
#pragma omp simd
    for (int64_t j = 0; j < gates; j++) z[j] = sigmoid(z[j]);
#pragma omp simd
    for (int64_t j = 0; j < n; j++) reset[j] = r[j] * h[j];
  });
}

// (1 - z^p)^(1/p) and its derivative.
template <bool plain>
float keep(float z, float p) {
  if constexpr (plain) return 1 - z;
  return __builtin_powf(1 - __builtin_powf(z, p), 1 / p);
}
template <bool plain>
float keep_derivative(float z, float p) {
  if constexpr (plain) return -1;
  return -__builtin_powf(z, p - 1) * __builtin_powf(1 - __builtin_powf(z, p), 1 / p - 1);
}

// The candidate's neuron, and the new state from it.
template <bool plain, bool after>
void gru_row(const RecurrentStep& s, int64_t row) {
  const int64_t n = s.hidden;
  const float *z = s.gates + row * s.width, *before = s.h_before + row * n;
  const float *r = z + n, *m = r + n;  // where there are both
  float *candidate = s.gates + (row + 1) * s.width - n, *h = s.h ? s.h + row * n : nullptr;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    if constexpr (after) {
      candidate[j] = tanh(candidate[j] + r[j] * m[j]);
    } else {
      candidate[j] = tanh(candidate[j]);
    }
  }
  if (!h) return;
  if (s.flip) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) h[j] = keep<plain>(z[j], s.p) * before[j] + z[j] * candidate[j];
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) h[j] = keep<plain>(z[j], s.p) * candidate[j] + z[j] * before[j];
  }
}

template <bool after>
void gru_rows(const RecurrentStep& s) {
  const int64_t n = s.hidden;
  over_rows(s, [&](int64_t row, bool alive) {
    if (after) {
      float* z = s.gates + row * s.width;
#pragma omp simd
      for (int64_t j = 0; j < 2 * n; j++) z[j] = sigmoid(z[j]);
    }
    if (alive || !s.h) s.p == 1 ? gru_row<true, after>(s, row) : gru_row<false, after>(s, row);
    if (s.h) give(s, row);
  });
}

template <bool plain, bool after>
void gru_row_backward(const RecurrentStep& s, int64_t row) {
  const int64_t n = s.hidden, last = s.width - n;
  const float *gates = s.gates + row * s.width, *before = s.h_before + row * n;
  float *d = s.dgates + row * s.width, *dh = s.dh + row * n;
  const bool flip = s.flip;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float z = gates[j], v = gates[last + j], h0 = before[j], g = dh[j];
    float a = keep<plain>(z, s.p), slope = keep_derivative<plain>(z, s.p);
    float dz = g * (flip ? slope * h0 + v : slope * v + h0);
    float dn = g * (flip ? z : a) * (1 - v * v);
    dh[j] = g * (flip ? a : z);
    if constexpr (after) {
      float r = gates[n + j], m = gates[2 * n + j];
      d[j] = dz * z * (1 - z);
      d[n + j] = dn * m * r * (1 - r);
      d[2 * n + j] = dn * r;
    } else {
      d[j] = dz;
    }
    d[last + j] = dn;
  }
}

template <bool after>
void gru_rows_backward(const RecurrentStep& s) {
  over_rows(s, [&](int64_t row, bool alive) {
    add_dy(s, row);
    if (!alive) return zero_row(s.dgates + row * s.width, s.width);
    s.p == 1 ? gru_row_backward<true, after>(s, row) : gru_row_backward<false, after>(s, row);
  });
}

void gru_gates_backward(const RecurrentStep& s) {
  const int64_t n = s.hidden;
  const bool two = s.width == 3 * n;  // else z itself resets
  over_rows(s, [&](int64_t row, bool alive) {
    const float *z = s.gates + row * s.width, *r = two ? z + n : z;
    const float *before = s.h_before + row * n, *dreset = s.dreset + row * n;
    float *dz = s.dgates + row * s.width, *dr = dz + n, *dh = s.dh + row * n;
    float* reset = s.reset + row * n;
    if (!alive) return zero_row(reset, n);
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
      float vz = z[j], vr = r[j], d = dreset[j], h0 = before[j];
      dh[j] += d * vr;
      reset[j] = vr * h0;
      float total = two ? dz[j] : dz[j] + d * h0;
      dz[j] = total * vz * (1 - vz);
    }
    if (!two) return;
    const float* gate = s.gates + row * s.width + n;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) dr[j] = dreset[j] * before[j] * gate[j] * (1 - gate[j]);
  });
}

void rnn(const RecurrentStep& s) {
  over_rows(s, [&](int64_t row, bool alive) {
    if (alive) copy_row(s.reset + row * s.hidden, s.h + row * s.hidden, s.hidden);
    give(s, row);
  });
}

void rnn_backward(const RecurrentStep& s) {
  over_rows(s, [&](int64_t row, bool alive) {
    add_dy(s, row);
    float *dh = s.dh + row * s.hidden, *gradient = s.reset + row * s.hidden;
    if (!alive) return zero_row(gradient, s.hidden);
    copy_row(dh, gradient, s.hidden);
    zero_row(dh, s.hidden);
  });
}

}  // namespace

extern const RecurrentLoops recurrent_loops_table = {gather,
                                                     scatter,
                                                     column_sums,
                                                     fill,
                                                     lstm,
                                                     lstm_backward,
                                                     peephole_gradient,
                                                     gru_gates,
                                                     gru_rows<false>,
                                                     gru_rows_backward<false>,
                                                     gru_gates_backward,
                                                     gru_rows<true>,
                                                     gru_rows_backward<true>,
                                                     rnn,
                                                     rnn_backward};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
