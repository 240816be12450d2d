// Winograd's transforms at 0, 1, -1, i, -i and infinity. The errors of the products reach the
// result 1.8 times as large as those of plain sums, but plain sums are 9 or 25 times as long. The
// values at i and -i are conjugate, so that 46 real products do: 16 at pairs of real points, and
// three for each of ten complex ones. Include only from files of loops/.
#pragma once

#include "winograd_tiles.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

// Along an axis the values stand in the order 0, 1, -1, Re i, Im i, infinity.
constexpr int kReal[] = {0, 1, 2, 5}, kRe = 3, kIm = 4;

// A quarter of the filter's values; of the complex ones a half, which counts them for -i too.
template <int taps>
struct GaussianFilterTransform {
  static constexpr int rows = kWinogradTile, cols = taps;
  static inline __attribute__((always_inline)) void apply(const Vector* in, Vector* out) {
    Vector even = in[0] + in[2], re = in[0] - in[2], odd = in[1], im = in[1];
    if constexpr (taps == 5) even += in[4], re += in[4], odd += in[3], im -= in[3];
    out[0] = -in[0];
    out[1] = 0.25f * (even + odd);
    out[2] = 0.25f * (even - odd);
    out[kRe] = 0.5f * re;
    out[kIm] = 0.5f * im;
    out[5] = in[taps - 1];
  }
};

struct GaussianImageTransform {
  static constexpr int rows = kWinogradTile, cols = kWinogradTile;
  static inline __attribute__((always_inline)) void apply(const Vector* x, Vector* out) {
    Vector even = x[4] + x[2], odd = x[3] + x[1];
    out[0] = x[4] - x[0];
    out[1] = even + odd;
    out[2] = even - odd;
    out[kRe] = x[4] - x[2];
    out[kIm] = x[3] - x[1];
    out[5] = x[5] - x[1];
  }
};

// Row j takes the j-th powers of the points.
template <int outputs>
struct GaussianOutputsTransform {
  static constexpr int rows = outputs, cols = kWinogradTile;
  static inline __attribute__((always_inline)) void apply(const Vector* in, Vector* out) {
    Vector sum = in[1] + in[2], difference = in[1] - in[2];
    out[0] = in[0] + sum + in[kRe];
    out[1] = difference - in[kIm];
    if constexpr (outputs == 4) {
      out[2] = sum - in[kRe];
      out[3] = difference + in[kIm];
    }
    out[outputs - 1] += in[5];
  }
};

// Both axes of an image's or a filter's tile as the factors of the products, put(f, factor):
// `three` cuts a complex number (re, im) into the factors of its three.
template <class T, class Get, class Three, class Put>
inline void gaussian_factors(const Get& get, float pairs, const Three& three, const Put& put) {
  Vector v[kWinogradTile][kWinogradTile];
  transform_tile<T>(get, [&](int i, Vector x) { v[i / kWinogradTile][i % kWinogradTile] = x; });
  int f = 0;
  auto complex = [&](Vector re, Vector im) {
    Vector factors[3];
    three(re, im, factors);
    for (Vector factor : factors) put(f++, factor);
  };
  for (int i : kReal)
    for (int j : kReal) put(f++, v[i][j]);
  for (int i : kReal) {
    complex(v[i][kRe], v[i][kIm]);
    complex(v[kRe][i], v[kIm][i]);
  }
  // At (i, i) and at (i, -i).
  complex(pairs * (v[kRe][kRe] - v[kIm][kIm]), pairs * (v[kRe][kIm] + v[kIm][kRe]));
  complex(pairs * (v[kRe][kRe] + v[kIm][kIm]), pairs * (v[kIm][kRe] - v[kRe][kIm]));
}

// (a + ib) (c + id) = (p - r) + i (p + q) of p = (a + b) c, q = a (d - c) and r = b (c + d).
struct GaussianImage {
  template <class Get, class Put>
  static void apply(const Get& get, const Put& put) {
    gaussian_factors<GaussianImageTransform>(
        get, 1,
        [](Vector a, Vector b, Vector* factors) {
          factors[0] = a + b, factors[1] = a, factors[2] = b;
        },
        put);
  }
};

template <int taps>
struct GaussianFilter {
  template <class Get, class Put>
  static void apply(const Get& get, const Put& put) {
    gaussian_factors<GaussianFilterTransform<taps>>(
        get, 0.5f,  // GaussianOutputs adds two products of pairs for each of their values
        [](Vector c, Vector d, Vector* factors) {
          factors[0] = c, factors[1] = d - c, factors[2] = c + d;
        },
        put);
  }
};

// The tile of the result of products get(f): put(i, value).
template <int outputs>
struct GaussianOutputs {
  template <class Get, class Put>
  static void apply(const Get& get, const Put& put) {
    Vector v[kWinogradTile][kWinogradTile];
    int f = 0;
    auto complex = [&](Vector& re, Vector& im) {
      Vector p = get(f), q = get(f + 1), r = get(f + 2);
      f += 3;
      re = p - r, im = p + q;
    };
    for (int i : kReal)
      for (int j : kReal) v[i][j] = get(f++);
    for (int i : kReal) {
      complex(v[i][kRe], v[i][kIm]);
      complex(v[kRe][i], v[kIm][i]);
    }
    Vector same[2], opposite[2];
    complex(same[0], same[1]);
    complex(opposite[0], opposite[1]);
    v[kRe][kRe] = opposite[0] + same[0];
    v[kIm][kIm] = opposite[0] - same[0];
    v[kRe][kIm] = same[1] - opposite[1];
    v[kIm][kRe] = same[1] + opposite[1];
    transform_tile<GaussianOutputsTransform<outputs>>(
        [&](int i) { return v[i / kWinogradTile][i % kWinogradTile]; }, put);
  }
};

// The transforms of a convolution.
struct GaussianPoints {
  static constexpr int products = kGaussianProducts;
  using Image = GaussianImage;
  template <int taps>
  using Filter = GaussianFilter<taps>;
  template <int outputs>
  using Outputs = GaussianOutputs<outputs>;
};

}  // namespace
}  // namespace jax_mps::cpu::JAX_MPS_ISA
