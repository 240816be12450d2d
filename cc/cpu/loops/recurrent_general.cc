#include "recurrent_general.h"

#include "parallel.h"
#include "recurrent_parts.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr int64_t kMemory = 6;  // vectors of hidden units a row

int64_t floats(const Shape& s) { return s.batch * kMemory * s.hidden; }

void apply(const NeuronCall& f, const float* x, float* y, int64_t n) {
  neuron_loops_table.apply(f.kind, f.a, f.b, f.c, x, y, n);
}
void slope(const NeuronCall& f, const float* dy, const float* x, float* dx, int64_t n) {
  neuron_loops_table.gradient(f.kind, f.a, f.b, f.c, dy, x, dx, n);
}

// One row of a step: where its numbers are.
struct Row {
  int64_t n;  // hidden units
  bool alive;
  const NeuronCall &gate, &cell, &output;
  float *gates, *last;  // of all gates, of the candidate
  float* v;             // memory
  int64_t state, step;  // offsets in [batch, hidden] and from `low` on in [count, batch, hidden]
  const float *before, *p;  // the cell before, the peepholes [3, hidden] or null

  Row(const Steps& s, int64_t t, int64_t row, float* memory)
      : n(s.shape.hidden),
        alive(cpu::JAX_MPS_ISA::alive(s, row, t)),
        gate(s.neurons[0]),
        cell(s.neurons[1]),
        output(s.neurons[2]),
        gates(s.gates + ((t - s.low) * s.shape.batch + row) * s.shape.width),
        last(gates + s.shape.width - n),
        v(memory + row * kMemory * n),
        state(row * n),
        step(((t - s.low) * s.shape.batch + row) * n),
        before(s.shape.cell == Cell::lstm ? cell_before(s, t) + state : nullptr),
        p(s.shape.cell == Cell::lstm ? s.extra : nullptr) {}
};

// The new state from v[n..], or of a row that has ended the old one.
void give(const Steps& s, const Row& r, int64_t t, int64_t row, const float* value) {
  if (r.alive) copy(value, s.h + r.state, r.n);
  if (s.y) copy(s.h + r.state, s.y + (row * s.time + t) * r.n, r.n);
}

void lstm_cell(const Steps& s, const Row& r, int64_t t) {
  const int64_t n = r.n;
  float *z = r.gates, *i = r.v, *f = i + n, *g = f + n;
  float* c = s.cells + (s.cells_kept ? t * s.shape.batch * n : 0) + r.state;
  if (r.p)
    for (int64_t j = 0; j < 2 * n; j++) z[j] += r.p[j] * r.before[j < n ? j : j - n];
  apply(r.gate, z, i, 2 * n);
  apply(r.cell, z + 2 * n, g, n);
  for (int64_t j = 0; j < n; j++) {
    const float old = r.before[j], now = f[j] * old + i[j] * g[j];
    if (r.p) z[3 * n + j] += r.p[2 * n + j] * now;
    c[j] = r.alive ? now : old;
  }
}

void lstm_state(const Steps& s, const Row& r, int64_t t, int64_t row) {
  const int64_t n = r.n;
  const float* c = s.cells + (s.cells_kept ? t * s.shape.batch * n : 0) + r.state;
  float *o = r.v, *h = o + n;
  apply(r.gate, r.gates + 3 * n, o, n);
  apply(r.output, c, h, n);
  for (int64_t j = 0; j < n; j++) h[j] *= o[j];
  give(s, r, t, row, h);
}

// z and the gate that resets, which may be z itself; the reset states.
void gru_gates(const Steps& s, const Row& r) {
  const int64_t n = r.n;
  const bool two = s.shape.cell == Cell::gru;
  apply(r.gate, r.gates, r.v, two ? 2 * n : n);
  const float *z = r.v, *reset = two ? z + n : z, *h = s.h + r.state;
  for (int64_t j = 0; j < n; j++) {
    s.reset[r.state + j] = reset[j] * h[j];
    if (s.update) s.update[r.state + j] = z[j] * h[j];
  }
}

void gru_state(const Steps& s, const Row& r, int64_t t, int64_t row) {
  const int64_t n = r.n;
  const float *z = r.v, *reset = z + n, *m = r.gates + 2 * n, *h = s.h + r.state;
  float *v = r.v + 2 * n, *value = v + n;
  if (s.shape.cell == Cell::gru_after) {
    apply(r.gate, r.gates, r.v, 2 * n);
    for (int64_t j = 0; j < n; j++) r.last[j] += reset[j] * m[j];
  }
  apply(r.cell, r.last, v, n);
  for (int64_t j = 0; j < n; j++) {
    const float kept = s.p == 1 ? keep<true>(z[j], s.p) : keep<false>(z[j], s.p);
    value[j] = s.flip ? kept * h[j] + z[j] * v[j] : kept * v[j] + z[j] * h[j];
  }
  give(s, r, t, row, value);
}

template <class F>
void over_rows(const Steps& s, const F& f) {
  constexpr int64_t kNeurons = 8;  // a neuron costs more than the elements that are counted
  const int64_t rows = s.shape.batch;
  parallel_pieces(rows, (rows + 7) / 8, rows * s.shape.width * kNeurons,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t row = begin; row < end; row++) f(row);
                  });
}

void forward(const Steps& s, int64_t t, int phase, float* memory) {
  over_rows(s, [&](int64_t row) {
    const Row r(s, t, row, memory);
    if (s.shape.cell == Cell::lstm) return phase ? lstm_state(s, r, t, row) : lstm_cell(s, r, t);
    if (phase) return gru_state(s, r, t, row);
    if (s.shape.cell != Cell::gru_after) gru_gates(s, r);
  });
}

// All of dh, and the gradients of all gates of a row that has ended.
bool begin_row(const Steps& s, const Row& r, int64_t t, int64_t row, float* dgates) {
  const float* dy = s.dy + (row * s.time + t) * r.n;
  float* dh = s.dh + r.state;
  for (int64_t j = 0; j < r.n; j++) dh[j] += dy[j];
  if (!r.alive)
    for (int64_t j = 0; j < s.shape.width; j++) dgates[j] = 0;
  return r.alive;
}

void lstm_state_backward(const Steps& s, const Row& r, int64_t t, float* d) {
  const int64_t n = r.n;
  const float* c = s.cells + t * s.shape.batch * n + r.state;
  float *o = r.v, *tc = o + n, *dh = s.dh + r.state, *dc = s.dc + r.state;
  apply(r.gate, r.gates + 3 * n, o, n);
  apply(r.output, c, tc, n);
  for (int64_t j = 0; j < n; j++) tc[j] *= dh[j], o[j] *= dh[j], dh[j] = 0;
  slope(r.gate, tc, r.gates + 3 * n, d + 3 * n, n);
  slope(r.output, o, c, o, n);
  for (int64_t j = 0; j < n; j++) dc[j] += o[j] + (r.p ? r.p[2 * n + j] * d[3 * n + j] : 0);
}

void lstm_cell_backward(const Steps& s, const Row& r, float* d) {
  const int64_t n = r.n;
  float *i = r.v, *f = i + n, *g = f + n, *dc = s.dc + r.state;
  apply(r.gate, r.gates, i, 2 * n);
  apply(r.cell, r.gates + 2 * n, g, n);
  for (int64_t j = 0; j < n; j++) {
    const float dcell = dc[j], input = i[j];
    i[j] = dcell * g[j], g[j] = dcell * input;
    dc[j] = dcell * f[j], f[j] = dcell * r.before[j];
  }
  slope(r.gate, i, r.gates, d, 2 * n);
  slope(r.cell, g, r.gates + 2 * n, d + 2 * n, n);
  if (r.p)
    for (int64_t j = 0; j < n; j++) dc[j] += r.p[j] * d[j] + r.p[n + j] * d[n + j];
}

void gru_state_backward(const Steps& s, const Row& r, float* d) {
  const int64_t n = r.n;
  const bool after = s.shape.cell == Cell::gru_after;
  const float* before = s.h_before + r.step;
  float *z = r.v, *reset = z + n, *v = reset + n, *dz = v + n, *dv = dz + n, *dh = s.dh + r.state;
  float* last = d + s.shape.width - n;
  apply(r.gate, r.gates, z, after ? 2 * n : n);
  apply(r.cell, r.last, v, n);
  for (int64_t j = 0; j < n; j++) {
    const float g = dh[j], kept = s.p == 1 ? keep<true>(z[j], s.p) : keep<false>(z[j], s.p);
    const float rise =
        s.p == 1 ? keep_derivative<true>(z[j], s.p) : keep_derivative<false>(z[j], s.p);
    dz[j] = g * (s.flip ? rise * before[j] + v[j] : rise * v[j] + before[j]);
    dv[j] = g * (s.flip ? z[j] : kept);
    dh[j] = g * (s.flip ? kept : z[j]);
  }
  slope(r.cell, dv, r.last, last, n);
  if (!after) return copy(dz, d, n);
  const float* m = r.gates + 2 * n;
  for (int64_t j = 0; j < n; j++) {
    d[2 * n + j] = last[j] * reset[j];
    dv[j] = last[j] * m[j];  // beside dz
  }
  slope(r.gate, dz, r.gates, d, 2 * n);
}

void gru_gates_backward(const Steps& s, const Row& r, const float* dreset, const float* dupdate,
                        float* d) {
  const int64_t n = r.n;
  const bool two = s.shape.cell == Cell::gru;
  const float* before = s.h_before + r.step;
  float *z = r.v, *reset = two ? z + n : z, *dz = r.v + 2 * n, *dr = dz + n, *dh = s.dh + r.state;
  apply(r.gate, r.gates, z, two ? 2 * n : n);
  for (int64_t j = 0; j < n; j++) {
    const float from_reset = dreset[r.state + j], from_update = dupdate ? dupdate[r.state + j] : 0;
    dh[j] += from_reset * reset[j] + from_update * z[j];
    s.reset[r.step + j] = reset[j] * before[j];
    if (s.update) s.update[r.step + j] = z[j] * before[j];
    dr[j] = from_reset * before[j];
    dz[j] = d[j] + from_update * before[j] + (two ? 0 : dr[j]);
  }
  slope(r.gate, dz, r.gates, d, two ? 2 * n : n);
}

void backward(const Steps& s, int64_t t, int phase, const float* dreset, const float* dupdate,
              float* memory) {
  over_rows(s, [&](int64_t row) {
    const Row r(s, t, row, memory);
    float* d = s.dgates + ((t - s.low) * s.shape.batch + row) * s.shape.dgates_stride;
    const bool lstm = s.shape.cell == Cell::lstm;
    if (phase == 0) {
      if (!begin_row(s, r, t, row, d)) return;
      return lstm ? lstm_state_backward(s, r, t, d) : gru_state_backward(s, r, d);
    }
    if (s.shape.cell == Cell::gru_after) return;
    if (r.alive)
      return lstm ? lstm_cell_backward(s, r, d) : gru_gates_backward(s, r, dreset, dupdate, d);
    if (lstm) return;
    for (int64_t j = 0; j < r.n; j++) {
      s.reset[r.step + j] = 0;
      if (s.update) s.update[r.step + j] = 0;
    }
  });
}

}  // namespace

extern const RecurrentGeneralLoops recurrent_general_table = {floats, forward, backward};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
