// What the cells do between their products, for `n` units of one row: never more than a vector.
// Include only from files of loops/.
//
// N is n where it is known when compiling, else 0. Of arrays that hold a part for each gate,
// `stride` is the way from one to the next. `sums` are the products of the state before.
#pragma once

#include "math.h"

// With the neurons inlined, or the compiler does not vectorise; in files of many loops it would
// leave them out.
#define JAX_MPS_WHOLE __attribute__((noinline, flatten))

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

const float kZeros[kMaxLanes] = {};

// Cheaper than those of math.h and as good, but: a sigmoid stays above 2^-126, and without fused
// multiply-adds its relative error grows with -x (1e-6 at -17, where it is 4e-8).
inline float gate_sigmoid(float x) {
  constexpr float shift = 0x1.8p23f + 127.0f;  // leaves n + 127, the exponent's bits of 2^n
  float bounded = x < -87.0f ? -87.0f : x;
  bounded = bounded > 87.0f ? 87.0f : bounded;
  float shifted = bounded * -0x1.715476p+0f + shift;
  float r = -bounded - (shifted - shift) * 0x1.62e43p-1f;
  float p = 0.0013813161f;
  p = p * r + 0.008369411f;
  p = p * r + 0.041668456f;
  p = p * r + 0.16666515f;
  p = p * r + 0.49999994f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return 1.0f / (1.0f + p * std::bit_cast<float>(std::bit_cast<int32_t>(shifted) << 23));
}
inline float gate_tanh(float x) {
  float bounded = x < -8.0f ? -8.0f : x;
  bounded = bounded > 8.0f ? 8.0f : bounded;
  float u = bounded * bounded;
  float p = 1.523046e-08f;
  p = p * u + 2.1894692e-05f;
  p = p * u + 0.0035715997f;
  p = p * u + 0.134445f;
  p = p * u + 1.0f;
  float q = 8.522464e-07f;
  q = q * u + 0.0003411295f;
  q = q * u + 0.02616445f;
  q = q * u + 0.46777827f;
  q = q * u + 1.0f;
  return bounded * p / q;
}

// Gates in place of their sums [rows][4][lanes], new cells in place of the old [rows][lanes], and
// states; peepholes [3][lanes]. Row after row in each loop: what a row's exponentials wait for is
// the time for another's.
template <bool peephole>
JAX_MPS_WHOLE void lstm_units(int64_t rows, float* sums, float* c, float* h, const float* p) {
  constexpr int n = kMaxLanes;
  for (int64_t i = 0; i < rows; i++) {
    float *a = sums + i * 4 * n, *before = c + i * n;
    if constexpr (peephole) {
#pragma omp simd
      for (int j = 0; j < n; j++) a[j] += p[j] * before[j], a[n + j] += p[n + j] * before[j];
    }
#pragma omp simd
    for (int j = 0; j < 2 * n; j++) a[j] = gate_sigmoid(a[j]);
#pragma omp simd
    for (int j = 2 * n; j < 3 * n; j++) a[j] = gate_tanh(a[j]);
    if constexpr (!peephole) {
#pragma omp simd
      for (int j = 3 * n; j < 4 * n; j++) a[j] = gate_sigmoid(a[j]);
    }
  }
  for (int64_t i = 0; i < rows; i++) {
    float *a = sums + i * 4 * n, *cell = c + i * n, *out = h + i * n;
#pragma omp simd
    for (int j = 0; j < n; j++) {
      float now = a[n + j] * cell[j] + a[j] * a[2 * n + j];
      if constexpr (peephole) a[3 * n + j] = gate_sigmoid(a[3 * n + j] + p[2 * n + j] * now);
      cell[j] = now;
      out[j] = a[3 * n + j] * gate_tanh(now);
    }
  }
}

// tanh of the cells of a row, for `rows` rows `stride` apart: [rows][lanes].
template <int N>
JAX_MPS_WHOLE void tanh_units(int64_t rows, int64_t count, const float* c, int64_t stride,
                              float* t) {
  const int64_t n = N ? N : count;
  for (int64_t i = 0; i < rows; i++) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) t[i * kMaxLanes + j] = gate_tanh(c[i * stride + j]);
  }
}

// From dh, all of the state's gradient, and t, the new cell's tanh; dc in: from the step after,
// out: for the step before. dgates go to two places, whose gates are `stride` and `copy_stride`
// apart.
template <int N, bool peephole>
JAX_MPS_WHOLE void lstm_units_backward(int64_t count, const float* gates, int64_t stride,
                                       const float* c0, const float* t, const float* dh, float* dc,
                                       float* dgates, float* copy, int64_t copy_stride,
                                       const float* extra) {
  const int64_t n = N ? N : count;
  const float *i = gates, *f = i + stride, *g = f + stride, *o = g + stride;
  float *di = dgates, *df = di + stride, *dg = df + stride, *d_o = dg + stride;
  float *ci = copy, *cf = ci + copy_stride, *cg = cf + copy_stride, *co = cg + copy_stride;
  const float* pi = peephole ? extra : gates;
  const float *pf = pi + stride, *po = pf + stride;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float vi = i[j], vf = f[j], vg = g[j], vo = o[j];
    float dso = dh[j] * t[j] * vo * (1 - vo);
    float dcell = dc[j] + dh[j] * vo * (1 - t[j] * t[j]);
    if constexpr (peephole) dcell += dso * po[j];
    float dsi = dcell * vg * vi * (1 - vi);
    float dsf = dcell * c0[j] * vf * (1 - vf);
    float dsg = dcell * vi * (1 - vg * vg);
    float through = dcell * vf;
    if constexpr (peephole) through += dsi * pi[j] + dsf * pf[j];
    di[j] = dsi, df[j] = dsf, dg[j] = dsg, d_o[j] = dso;
    ci[j] = dsi, cf[j] = dsf, cg[j] = dsg, co[j] = dso;
    dc[j] = through;
  }
}

// (1 - z^p)^(1/p) and its derivative; plain: p = 1.
template <bool plain>
inline float keep(float z, float p) {
  if constexpr (plain) return 1 - z;
  return __builtin_powf(1 - __builtin_powf(z, p), 1 / p);
}
template <bool plain>
inline float keep_derivative(float z, float p) {
  if constexpr (plain) return -1;
  return -__builtin_powf(z, p - 1) * __builtin_powf(1 - __builtin_powf(z, p), 1 / p - 1);
}

// h' from the gate z, the candidate v and the state before.
template <int N, bool plain>
JAX_MPS_WHOLE void blend_units(int64_t count, const float* z, const float* v, const float* before,
                               float* h, float p, bool flip) {
  const int64_t n = N ? N : count;
  if (flip) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) h[j] = keep<plain>(z[j], p) * before[j] + z[j] * v[j];
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) h[j] = keep<plain>(z[j], p) * v[j] + z[j] * before[j];
  }
}

// Gates z, r, m, n, where m = h r_n + bias is what the gate r resets; the sums have no n. `again`:
// m is there already.
template <int N, bool again>
JAX_MPS_WHOLE void gru_after_units(int64_t count, const float* sums, int64_t sums_stride,
                                   float* gates, int64_t stride, const float* bias) {
  const int64_t n = N ? N : count;
  float *z = gates, *r = z + stride, *m = r + stride, *v = m + stride;
  const float *sz = sums, *sr = sz + sums_stride, *sm = sr + sums_stride;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float vr = gate_sigmoid(r[j] + sr[j]), vm = again ? m[j] : sm[j] + bias[j];
    z[j] = gate_sigmoid(z[j] + sz[j]);
    r[j] = vr, m[j] = vm;
    v[j] = gate_tanh(v[j] + vr * vm);
  }
}

// Gates z, r (or z alone, which then resets), and reset = r h.
template <int N, bool two>
JAX_MPS_WHOLE void gru_gate_units(int64_t count, const float* sums, int64_t sums_stride,
                                  float* gates, int64_t stride, const float* before, float* reset) {
  const int64_t n = N ? N : count;
  float *z = gates, *r = two ? z + stride : z;
  const float *sz = sums, *sr = two ? sz + sums_stride : sz;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float vz = gate_sigmoid(z[j] + sz[j]), vr = two ? gate_sigmoid(r[j] + sr[j]) : vz;
    z[j] = vz;
    if constexpr (two) r[j] = vr;
    reset[j] = vr * before[j];
  }
}

template <int N>
JAX_MPS_WHOLE void candidate_units(int64_t count, const float* sums, float* v) {
  const int64_t n = N ? N : count;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) v[j] = gate_tanh(v[j] + sums[j]);
}

// From dh, all of the state's gradient: dgates of z, r, m, n (after), or of n and, but for its
// neuron, of z; dh becomes what goes past the products.
template <int N, bool plain, bool after>
JAX_MPS_WHOLE void gru_units_backward(int64_t count, const float* gates, int64_t stride,
                                      int64_t last, const float* before, float* dh, float* dgates,
                                      float p, bool flip) {
  const int64_t n = N ? N : count;
  const float *z = gates, *r = z + stride, *m = r + stride, *v = gates + last;
  float *d = dgates, *dr = d + stride, *dm = dr + stride, *dv = dgates + last;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float vz = z[j], vv = v[j], h0 = before[j], g = dh[j];
    float a = keep<plain>(vz, p), slope = keep_derivative<plain>(vz, p);
    float dz = g * (flip ? slope * h0 + vv : slope * vv + h0);
    float dn = g * (flip ? vz : a) * (1 - vv * vv);
    dh[j] = g * (flip ? a : vz);
    if constexpr (after) {
      float vr = r[j], vm = m[j];
      d[j] = dz * vz * (1 - vz);
      dr[j] = dn * vm * vr * (1 - vr);
      dm[j] = dn * vr;
    } else {
      d[j] = dz;
    }
    dv[j] = dn;
  }
}

// The rest where the gates reset before the product, from dreset.
template <int N, bool two>
JAX_MPS_WHOLE void gru_gate_units_backward(int64_t count, const float* gates, int64_t stride,
                                           const float* dreset, const float* before, float* dh,
                                           float* dgates, float* reset) {
  const int64_t n = N ? N : count;
  const float *z = gates, *r = two ? z + stride : z;
  float *dz = dgates, *dr = two ? dz + stride : dz;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    float vz = z[j], vr = r[j], d = dreset[j], h0 = before[j];
    dh[j] += d * vr;
    reset[j] = vr * h0;
    float total = two ? dz[j] : dz[j] + d * h0;
    dz[j] = total * vz * (1 - vz);
    if constexpr (two) dr[j] = d * h0 * vr * (1 - vr);
  }
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
