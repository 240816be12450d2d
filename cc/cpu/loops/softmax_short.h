// The loops of softmax.h for rows of few classes: sixteen rows are transposed at a time, so that
// vectors run across rows. Include only from files of loops/.
#pragma once

#include "math.h"
#include "parallel.h"
#include "softmax.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr int64_t kShort = 32;  // rows of fewer classes are short
constexpr int64_t kLanes = 16;

// One number for each of sixteen rows.
struct Lanes {
  alignas(64) float at[kLanes];

  explicit Lanes(float value) {
    for (int64_t l = 0; l < kLanes; l++) at[l] = value;
  }
  Lanes(const float* values, int64_t count) : Lanes(0) {
    for (int64_t l = 0; l < count; l++) at[l] = values[l];
  }
  void store(float* values, int64_t count) const {
    for (int64_t l = 0; l < count; l++) values[l] = at[l];
  }
};

// The classes of sixteen rows, transposed; rows after the last are zeros.
struct ShortRows {
  int64_t count, classes;
  alignas(64) float at[kShort][kLanes];

  ShortRows(int64_t count, int64_t classes) : count(count), classes(classes) {}
  ShortRows(const float* x, int64_t count, int64_t classes) : ShortRows(count, classes) {
    if (count == kLanes) {
      each([=](float& v, int64_t c, int64_t l) { v = x[l * classes + c]; });
      return;
    }
    each([](float& v, int64_t, int64_t) { v = 0; });
    for (int64_t l = 0; l < count; l++)
      for (int64_t c = 0; c < classes; c++) at[c][l] = x[l * classes + c];
  }
  void store(float* x) const {
    for (int64_t l = 0; l < count; l++)
      for (int64_t c = 0; c < classes; c++) x[l * classes + c] = at[c][l];
  }
  // f(element, class, lane)
  template <class F>
  void each(const F& f) {
    for (int64_t c = 0; c < classes; c++)
#pragma omp simd
      for (int64_t l = 0; l < kLanes; l++) f(at[c][l], c, l);
  }
};

// f(first, count) for each group of sixteen rows, in parallel.
template <class F>
void each_group(int64_t rows, int64_t classes, const F& f) {
  parallel_pieces(rows, 8 * kLanes, 4 * rows * classes, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r += kLanes) f(r, end - r < kLanes ? end - r : kLanes);
  });
}

Lanes maximum_of(ShortRows& x) {
  Lanes m(-__builtin_inff());
  x.each([&](float v, int64_t, int64_t l) { m.at[l] = v > m.at[l] ? v : m.at[l]; });
  return m;
}

// log sum exp(x - maximum)
Lanes log_sum_of(ShortRows& x, const Lanes& maximum) {
  Lanes sum(0);
  x.each([&](float v, int64_t, int64_t l) { sum.at[l] += exp(v - maximum.at[l]); });
#pragma omp simd
  for (int64_t l = 0; l < kLanes; l++) sum.at[l] = log(sum.at[l]);
  return sum;
}

void short_softmax(bool log, const float* from, float* to, int64_t rows, int64_t n) {
  each_group(rows, n, [&](int64_t r, int64_t count) {
    ShortRows x(from + r * n, count, n);
    Lanes maximum = maximum_of(x), sum(0);
    if (log) {
      Lanes log_sum = log_sum_of(x, maximum);
      x.each([&](float& v, int64_t, int64_t l) { v = (v - maximum.at[l]) - log_sum.at[l]; });
    } else {
      x.each([&](float& v, int64_t, int64_t l) {
        v = exp(v - maximum.at[l]);
        sum.at[l] += v;
      });
      x.each([&](float& v, int64_t, int64_t l) { v /= sum.at[l]; });
    }
    x.store(to + r * n);
  });
}

void short_gradient(bool log, const float* dy, const float* y, float* dx, int64_t rows, int64_t n) {
  each_group(rows, n, [&](int64_t r, int64_t count) {
    ShortRows g(dy + r * n, count, n), v(y + r * n, count, n);
    Lanes sum(0);
    if (log) {
      g.each([&](float d, int64_t, int64_t l) { sum.at[l] += d; });
      g.each([&](float& d, int64_t c, int64_t l) { d -= exp(v.at[c][l]) * sum.at[l]; });
    } else {
      g.each([&](float d, int64_t c, int64_t l) { sum.at[l] += d * v.at[c][l]; });
      g.each([&](float& d, int64_t c, int64_t l) { d = v.at[c][l] * (d - sum.at[l]); });
    }
    g.store(dx + r * n);
  });
}

inline float half_log_p(float x, float maximum, float log_sum) {
  return (0.5f * x - 0.5f * maximum) - 0.5f * log_sum;
}

// What the classes of sixteen rows should be, after smoothing.
struct ShortLabels {
  bool is_dense;
  float kept, spread;
  ShortRows dense;
  alignas(64) int32_t index[kLanes];

  ShortLabels(const Labels& labels, int64_t r, int64_t count, int64_t n)
      : is_dense(labels.dense),
        kept(1 - labels.smoothing),
        spread(labels.smoothing / static_cast<float>(n)),
        dense(is_dense ? ShortRows(labels.dense + r * n, count, n) : ShortRows(count, n)) {
    for (int64_t l = 0; l < kLanes; l++)
      index[l] = !is_dense && l < count ? labels.index[r + l] : 0;
    if (!is_dense)
      dense.each([&](float& t, int64_t c, int64_t l) { t = index[l] == c ? 1.0f : 0.0f; });
    dense.each([&](float& t, int64_t, int64_t) { t = t * kept + spread; });
  }
  // x, or NaN where an integer label names no class
  float checked(float x, int64_t l) const {
    return ((index[l] < 0) | (index[l] >= dense.classes)) ? __builtin_nanf("") : x;
  }
};

void short_cross_entropy(const float* from, const Labels& labels, float* loss, float* maximum,
                         float* log_sum, int64_t rows, int64_t n) {
  each_group(rows, n, [&](int64_t r, int64_t count) {
    ShortRows x(from + r * n, count, n);
    ShortLabels t(labels, r, count, n);
    Lanes m = maximum_of(x), s = log_sum_of(x, m), total(0);
    x.each([&](float v, int64_t c, int64_t l) {
      float label = t.dense.at[c][l], value = half_log_p(v, m.at[l], s.at[l]);
      value = label == 0 ? (value == -__builtin_inff() ? 0 : value) : value;
      total.at[l] -= 2 * label * value;
    });
    for (int64_t l = 0; l < kLanes; l++) total.at[l] = t.checked(total.at[l], l);
    total.store(loss + r, count);
    m.store(maximum + r, count);
    s.store(log_sum + r, count);
  });
}

void short_cross_entropy_gradient(const float* dloss, const float* from, const Labels& labels,
                                  const float* maximum, const float* log_sum, float* dx,
                                  int64_t rows, int64_t n) {
  each_group(rows, n, [&](int64_t r, int64_t count) {
    ShortRows x(from + r * n, count, n);
    ShortLabels t(labels, r, count, n);
    Lanes m(maximum + r, count), s(log_sum + r, count), g(dloss + r, count), sum(0);
    for (int64_t l = 0; l < kLanes; l++) g.at[l] = t.checked(g.at[l], l);
    if (t.is_dense)
      t.dense.each([&](float v, int64_t, int64_t l) { sum.at[l] += v; });
    else
      sum = Lanes(1);
    x.each([&](float& v, int64_t c, int64_t l) {
      float p = exp((v - m.at[l]) - s.at[l]);
      v = g.at[l] * (p * sum.at[l] - t.dense.at[c][l]);
    });
    x.store(dx + r * n);
  });
}

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
